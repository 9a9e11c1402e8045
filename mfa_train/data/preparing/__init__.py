"""Texts become a corpus, once; prepare.py is the door.

sources/                   where documents come from
encode.py                  documents to tokens to shards; batches.py, ahead.py: so many at a time, stages side by side
progress_file.py bar.py    what is finished, for the next start and for a person
megatron.py                shards of other tools, taken where they lie
finish.py                  the manifest, the folder's name
"""
