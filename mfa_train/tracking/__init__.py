"""Where a run's numbers go: metrics.jsonl, the terminal, W&B. Nothing here can stop a run."""
