"""The run's folder.

folder.py lock.py           which files there are, and that one process group works in them
profile_request.py          by which a running run is asked for a trace, and where that lies
opening.py closing.py       what is written down as a run opens, and as it closes
provenance.py               what made it: config, data, code, versions
"""
