"""The order of samples; batches.py is the door."""
