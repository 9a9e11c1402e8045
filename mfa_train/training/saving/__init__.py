"""How a run saves while its steps go on, in the form of `mfa_train.checkpoints`.

save_points.py     when a run saves, and when it stops
writer.py          writes a checkpoint beside the steps
uploads.py         copies it to object storage, beside them too
engine_state.py rng.py   what the engine has learnt, as named pieces; random generators
final_weights.py   the weights of a finished run
"""
