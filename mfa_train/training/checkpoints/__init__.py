"""What a checkpoint holds, and how it is written, found, checked and read.

manifest.py        all but its tensors
engine_state.py tensor_files.py rng.py   what the engine has learnt, as named pieces; these in files; random generators
folders.py         a checkpoint on disk: whole or invisible
writer.py          writes one while the steps go on
save_points.py     when a run saves, and when it stops
final_weights.py   checkpoints/final, which is no checkpoint: the weights of a finished run
"""
