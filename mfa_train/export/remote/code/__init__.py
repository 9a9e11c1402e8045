"""What the files of a remote model are made of beside the project's own sources: Hugging Face's side of it.

configuration_mfa_train.py   config.json
cache.py                     the entries of past tokens, as transformers' Cache
rows.py                      padding and packed documents
modeling.py                  the model
variant.py kernels.py        what stands for the choice among variants and kernels

`bundle.py` puts them, and what they import, into one file; here they are ordinary modules.
"""
