"""Scores of a run on tasks of lm-eval.

tasks.py      which tasks: of a folder of yaml files, or lm-eval's own
lm.py         our model as lm-eval asks it
evaluate.py   tasks through a model
scores.py     what comes out, one file a task and state of the run: RUN/evaluations/
"""
