"""From text to training samples.

    1. A source (python_stdlib.py, files.py) yields documents, each of the training or of the held-out split.
    2. prepare.py trains a tokenizer on training documents (tokenizer.py) and writes, once, into data.path:
       tokenizer.model, train-00000.bin/.idx, …, held_out-00000.bin/.idx, … (token_shards.py) and manifest.json (corpus.py).
    3. samples.py cuts a split's tokens into windows and reads them in one global order (order.py): a pure function of
       corpus, seed and sequence length, whoever reads.
    4. documents.py turns a batch into what the model is called with, where data.document_mask asks its documents too.
"""
