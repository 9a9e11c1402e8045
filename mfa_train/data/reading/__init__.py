"""The global order of samples, and what is read by it; batches.py is the door.

batches.py     which samples a step consumes, and which of them a rank takes
mixture.py     which corpus each sample comes from
order.py       where each sample of a corpus lies
shuffle.py     the permutations that the order is made of
samples.py     the tokens at these places
documents.py   where documents end within a batch
held_out.py    the samples that are evaluated on
ahead.py       what is read soon, so that it can be fetched
"""
