"""What a checkpoint holds, and how it is written, found, checked and read; when a run saves."""
