"""Token shards: their form on disk, and how one gets ready to be read."""
