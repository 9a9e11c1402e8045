"""The decoder around the attention: feed-forward, initialisation, loss, generation with its products."""
