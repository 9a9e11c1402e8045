"""The processes of a run.

ranks.py              who they are, and what they do together
orders.py signals.py  what one of them decides and all carry out; a scheduler's or a person's wish to stop
watchdog.py           a rank that stands still ends the job (one that is killed: launch/node.py)
host_memory.py        memory that a process keeps
"""
