"""From text to training samples.

    1. A source (sources/) yields documents, each of the training or of the held-out split.
    2. prepare.py finds the corpus in data.path, or has it made, once: encode.py trains or copies a tokenizer
       (tokenizer/) and writes train-00000.bin/.idx, …, held_out-00000.bin/.idx, … (token_shards.py); megatron.py takes
       shards that are there. finish.py writes manifest.json, which corpus.py reads.
    3. samples.py cuts a split's tokens into windows and reads them in one global order (order.py): a pure function of
       corpus, seed and sequence length, whoever reads.
    4. documents.py turns a batch into what the model is called with, where data.document_mask asks its documents too.
"""
