"""cluster.environment: a file of KEY=VALUE lines that every rank gets beside the environment it is started in.

The values may be secrets. They stay in the file, with the rights that it has: each rank reads it where it starts, and
job.json, command lines, logs and errors hold the file's name alone.
"""

import re

from mfa_train.errors import ConfigError
from mfa_train.launch.lines import lines_of

EXPECTED = "lines of KEY=VALUE, as NCCL_SOCKET_IFNAME=ib0"
LAUNCHER = re.compile(
    r"(LOCAL_|GROUP_|ROLE_|NODE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|ROLE_NAME|(CUDA|HIP|ROCR)_VISIBLE_DEVICES"
    r"|(TORCHELASTIC|SLURM|SBATCH|PMI|PMIX|OMPI)_\w+"
)
"""What the launcher sets for each rank."""
AT_START = re.compile(r"LD_\w+|PYTHON\w+|MALLOC_\w+|GLIBC_TUNABLES")
"""What a process reads once, before it can read a file."""


def environment(file: str | None) -> dict[str, str]:
    """The values of `file` by name, taken as they stand; none without a file. Raises ConfigError, naming the line and
    never its value."""
    values: dict[str, str] = {}
    for number, line in lines_of("cluster.environment", file, EXPECTED) if file is not None else ():
        place = f"cluster.environment={file}: line {number}"
        key, separator, value = line.partition("=")
        if not separator or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key):
            mend = (
                ": delete export"
                if re.match(r"export\s", line)
                else ": no spaces around ="
                if re.match(r"\w+\s+=", line)
                else ""
            )
            raise ConfigError(f"{place}: expected KEY=VALUE, as NCCL_SOCKET_IFNAME=ib0{mend}")
        if value != value.strip():
            raise ConfigError(f"{place}: {key}: no spaces around =")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            raise ConfigError(f"{place}: {key}: values are taken as they stand: delete the quotes")
        if key in values:
            raise ConfigError(f"{place}: {key} stands there twice: leave one of the lines")
        if LAUNCHER.fullmatch(key):
            raise ConfigError(f"{place}: {key} is set for each rank by the launcher: delete the line")
        if AT_START.fullmatch(key):
            raise ConfigError(
                f"{place}: {key} is read as a process starts, before this file: set it where you launch, or in the "
                "job's script"
            )
        values[key] = value
    return values
