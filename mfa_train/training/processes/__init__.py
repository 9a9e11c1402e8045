"""The processes of a run.

ranks.py              who they are, and what they do together
agreed_steps.py       what one of them decides, carried out by all after the same step
signals.py            a scheduler's or a person's wish to stop
watchdog.py           a rank that stands still ends the job (one that is killed: launch/node.py)
host_memory.py        memory that a process keeps
"""
