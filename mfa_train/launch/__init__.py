"""From a config to processes: on this machine, through SLURM, on hosts over ssh; one run or a sweep of them.

start.py sweep.py             `mfa-train launch`, and a sweep of runs
checks.py                     what is refused before a job is handed over
job.py                        what is handed over
local.py slurm.py ssh.py      how, one file a way; hosts.py, hostfile.py, probe.py, orphans.py: for ssh
node.py slurm_node.py         the ranks of a node, where one that is killed is noticed; SLURM's task there
requeue.py                    when SLURM queues a job again
rank.py output.py             one rank, and where its words go
environment.py lines.py family.py ports.py   what ranks are started with
status.py                     how the runs stand
profile.py                    `mfa-train profile`: a trace of a running run's steps
"""
