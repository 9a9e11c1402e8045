"""From text to training samples.

    1. preparing/ makes a corpus, once: a source yields documents (sources/), each of the training or of the held-out
       split; a tokenizer (tokenizer/) is trained or copied; the tokens are written into shards. Or shards that other
       tools made are taken where they lie. manifest.json vouches for all of it (corpus.py).
    2. shards/ is the form of those shards, and gets one ready to be read: checked, or fetched from where it lies.
    3. reading/ puts the corpora's tokens into one global order of samples: a pure function of corpora, mixture, seed
       and sequence length, whoever reads.

corpora.py is the door: the corpora that a config names, prepared where they aren't yet, and opened.
"""
