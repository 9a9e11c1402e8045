"""Scores of a run on tasks of lm-eval.

tasks.py      which tasks: of a folder of yaml files, or lm-eval's own
folder.py     what such a folder says, without running anything of it
lm.py         our model as lm-eval asks it; continued.py: text that goes on
ranks.py      the processes that share the passes
evaluate.py   tasks through a model
gold.py       bits per byte of the right answer
installed.py  whether lm-eval is there
quiet.py      lm-eval without its talk
scores.py     what comes out, one file a task and state of the run: RUN/evaluations/
"""
