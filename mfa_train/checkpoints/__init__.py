"""What a run's checkpoints/ holds, and how it is found, checked and read. Nothing here knows an engine.

manifest.py        all of a checkpoint but its tensors
tensor_files.py    its tensors: named pieces of the weights and of what the optimizer keeps
streamed.py        safetensors files, read and written a piece at a time
folders.py         a checkpoint on disk: whole or invisible
object_storage.py  a run's folder in object storage: files put there and taken from there
tokenizer.py       the tokenizer that lies with weights
weights.py         the weights of one state of a run, final or of a checkpoint, read one at a time
safetensors_folder.py  weights of others, as Hugging Face lays them out
model.py           a model filled with them
"""
