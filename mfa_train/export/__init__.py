"""A run's weights in the forms of other tools. It reads checkpoints, never a live trainer.

export.py          the command: which state, which form, the folder that appears whole or not at all
weight_files.py    the weights, in files of a size
card.py            README.md
formats/           one file a form: what it can say of a model, and how the weights stand in it
"""
