"""The run's folder: who works in it, what is written as a run opens and as it closes, where it comes from."""
