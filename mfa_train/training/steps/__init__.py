"""What a step is made of.

loop.py step.py     a run's steps; one of them, and where its update is made
schedule.py         the learning rate
engine.py optimizer.py   the model inside DeepSpeed; AdamW with a last word on its updates
average.py          the weights' exponential moving average
losses.py guard.py  the losses, read when they are needed; what is done about NaN and spikes
state.py speed.py   how far a run is; how fast
phases.py           where a step's time goes, peak memory, the slowest rank
profiling.py trace.py   traces of some steps, where they are asked for
gathers.py          what a forward pass waits for under ZeRO 3
evaluation.py task_scores.py   held-out loss; scores on tasks
"""
