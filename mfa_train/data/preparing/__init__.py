"""Texts become a corpus, once; prepare.py is the door."""
