"""The files that let transformers load a model of ours without us: made of the sources that trained it."""
