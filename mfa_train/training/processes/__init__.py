"""The processes of a run: who they are, what they agree on, what stops them."""
