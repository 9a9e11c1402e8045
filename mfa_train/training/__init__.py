"""From a config to a run folder.

run.py            the story of a run, in five steps
before_start.py   what can be known to fail before the first step
run_data.py       what a run reads
steps/            what a step is made of: the loop, the engine, the learning rate, the losses, the guard, evaluation
saving/           when and how a run saves; what a checkpoint is: mfa_train/checkpoints
init_from/        whether a new run begins with weights that are there
resuming/         where a run goes on, and what may have changed since
run_folder/       what is written as a run opens and as it closes, who works in it
processes/        the ranks, what they agree on, what stops them
closing_sample.py  text from the final weights
cache_loss.py      held-out loss through smaller caches
evaluate_run.py    scores on tasks
"""
