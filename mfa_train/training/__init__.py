"""From a config to a run folder: the loop, the DeepSpeed engine, the schedule, evaluation, what is left behind."""
