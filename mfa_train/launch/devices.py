"""Whether a job is for GPUs or CPUs. It is decided where the job is launched, once, and written into job.json."""

from mfa_train.config import ClusterConfig
from mfa_train.errors import ConfigError
from mfa_train.training.processes.device_kind import CPU, CUDA, seen


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


def require_here(cluster: ClusterConfig) -> None:
    """Raises ConfigError where ranks of this machine are to train on GPUs that it doesn't have."""
    if cluster.launcher != "local" or kind_of(cluster) == CPU:
        return
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not here:
        raise ConfigError(
            f"cluster.device={cluster.device}: cluster=local trains on this machine, which has no CUDA device ({seen()}"
            f"): type cluster.device=auto for what is here; mfa-train plan cluster.device={cluster.device} plans for it"
        )
    if cluster.devices_per_node > here:
        raise ConfigError(
            f"cluster.devices_per_node={cluster.devices_per_node}: this machine has {here} CUDA devices ({seen()}): "
            f"type cluster.devices_per_node={here}, or cluster.device=cpu"
        )
