"""What multiplies queries, keys and values: one file a kernel, one choice.

causal.py   training and prompts: the choice of `attention.kernel`, torch's SDPA, flash-attn 2
tiled.py    training on a CPU
decoding.py single tokens over a cache's entries
"""
