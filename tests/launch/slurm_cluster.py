"""A real SLURM cluster of two nodes on this machine: munged, slurmctld and two slurmd, with all their files in one
folder. What is in its `private`, n2 does not see. Each node's two GPUs are links to /dev/null: SLURM grants them, and
no process finds one."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv", "unshare")

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port_2}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ReturnToService=2
KillWait=30
MinJobAge=300
FirstJobId={job}
JobRequeue=1
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{port_3}-{port_4}] CPUs={cpus} RealMemory=1000 Gres=gpu:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=60 State=UP OverSubscribe=EXCLUSIVE PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n[1-2] MaxTime=60 State=UP OverSubscribe=EXCLUSIVE PriorityTier=2 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if os.getuid():
        return "SLURM's daemons are started by root alone"
    absent = [name for name in DAEMONS if shutil.which(name) is None]
    return f"{', '.join(absent)} not installed (Debian: slurm-wlm, munge)" if absent else None


class Cluster:
    """Up within `with`; `environment` has what SLURM's commands need. Its daemons end with this process, however it
    ends."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> "Cluster":
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start_all(self) -> None:
        folder = self.folder
        # Ports, those of jobs too, that no other such cluster on this machine has.
        first, job = 10000 + os.getpid() % 1900 * 5, 1 + os.getpid() % 400 * 30
        (folder / "slurm.conf").write_text(
            CONF.format(
                host=socket.gethostname(),
                folder=folder,
                cpus=os.cpu_count(),
                job=job,
                port=first,
                port_2=first + 1,
                port_3=first + 2,
                port_4=first + 3,
            )
        )
        for number in range(2):
            (folder / f"gpu{number}").symlink_to("/dev/null")
        (folder / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n[1-2] Name=gpu File={folder}/gpu[0-1]\n")
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        folder.chmod(0o711)
        self._start(
            "munged",
            "--foreground",
            "--force",
            f"--socket={folder}/munge.socket",
            f"--key-file={key}",
            f"--pid-file={folder}/munge.pid",
            f"--log-file={folder}/munge.log",
            f"--seed-file={folder}/munge.seed",
        )
        self._wait(lambda: (folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D", "-i")
        for name in ("spool-n1", "spool-n2", "private"):
            (folder / name).mkdir()
        self._start("slurmd", "-D", "-N", "n1")
        self._start("unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {folder}/private && exec slurmd -D -N n2")
        self._wait(lambda: self.call("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], "the nodes")

    def call(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def state(self, job: str) -> str:
        """As PENDING, RUNNING, COMPLETED, FAILED."""
        shown = self.call("scontrol", "show", "job", job)
        return next((word.split("=")[1] for word in shown.split() if word.startswith("JobState=")), "")

    def wait_for(self, job: str, *states: str, seconds: float = 120) -> str:
        self._wait(lambda: self.state(job) in states, f"job {job} to be {states}", seconds)
        return self.state(job)

    def __exit__(self, *_) -> None:
        deadline = time.monotonic() + 40
        while self.call("squeue", "--noheader") and time.monotonic() < deadline:
            self.call("scancel", "--user=root")
            time.sleep(0.5)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, *command: str) -> None:
        log = (self.folder / f"{len(self.daemons)}-{command[0]}.out").open("w")
        # A session of its own: a terminal's Ctrl-C would end it before its jobs are cancelled.
        self.daemons.append(
            subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )

    def _wait(self, done, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}: " + "\n".join(
                f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in self.folder.glob("*.log")
            )
            time.sleep(0.2)
