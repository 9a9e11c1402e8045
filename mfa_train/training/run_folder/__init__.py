"""The run's folder.

folder.py lock.py           which files there are, and that one process group works in them
opening.py closing.py       what is written down as a run opens, and as it closes
provenance.py               what made it: config, data, code, versions
"""
