"""What multiplies queries, keys and values: one file a kernel, one choice.

causal.py   training and prompts: the choice of `attention.kernel`, flash-attn 2
sdpa.py     torch's SDPA
tiled.py    training on a CPU
decoding.py plain.py compiled.py decoding.cpp   single tokens over a cache's entries; on a CPU a kernel of our own
rows.cpp    a weight times few rows, built with it (model/rows.py)
"""
