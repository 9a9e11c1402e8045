"""A new run that begins with weights that are there already: `init_from` (docs/continued-pretraining.md).

source.py           what init_from names, opened: its settings, its weights, its tokenizer
same_model.py       whether the config's model is that one
same_tokenizer.py   whether ids mean the same there and in the corpus
begin.py            the weights in a new engine, and the held-out loss with them
"""
