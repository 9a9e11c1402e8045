"""Scores of a run on tasks of lm-eval.

tasks.py      which tasks: of a folder of yaml files, or lm-eval's own
folder.py     what such a folder says, without running anything of it
lm.py         our model as lm-eval asks it
evaluate.py   tasks through a model
gold.py       bits per byte of the right answer
scores.py     what comes out, one file a task and state of the run: RUN/evaluations/
"""
