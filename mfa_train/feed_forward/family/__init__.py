"""The kinds of feed-forward, one file each, named as its choice."""
