"""Where a run goes on, and what may have changed since.

changes.py        what of the config may change
resume_point.py   which checkpoint it is
from_storage.py   fetched from object storage, where that is further
agreement.py      read for its checksums by all ranks
build.py          the engine and the state, new or from there
stretches.py      from which step a run was trained with which settings
roll_back.py      back to the last checkpoint, when too many steps in a row were skipped
"""
