"""Whether a job is for GPUs or CPUs. It is decided where the job is launched, once, and written into job.json."""

from mfa_train.config import ClusterConfig
from mfa_train.errors import ConfigError
from mfa_train.training.processes.device_kind import CPU, CUDA


def is_decided(cluster: ClusterConfig) -> bool:
    """False for auto on other machines: this one, as a login node, may have other devices."""
    return cluster.device != "auto" or cluster.launcher == "local"


def kind_of(cluster: ClusterConfig) -> str:
    """cuda or cpu; with device=auto on this machine, what is here. Raises ConfigError where it isn't decided."""
    from mfa_train.budget.devices import KNOWN, planned_device

    if not is_decided(cluster):
        raise ConfigError(
            f"cluster.device=auto: cluster={cluster.launcher} trains on other machines than this one: expected "
            f"{', '.join(device.name for device in KNOWN)} or cpu: type cluster.device=h100-80gb, or cluster.device=cpu"
        )
    if cluster.device != "auto":
        return CPU if cluster.device == "cpu" else CUDA
    return planned_device("auto", 1).type
