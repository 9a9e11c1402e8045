"""The node `parallel`: what ranks share out among them beside the batch and ZeRO's shards."""

from dataclasses import dataclass

from mfa_train.config.requirements import require_choice, require_positive


@dataclass
class ParallelConfig:
    """A number is one of ranks, 1: nothing is shared out. Whether the model, the ranks and DeepSpeed can it:
    `mfa_train.parallel.requirements`."""

    experts: int
    """Consecutive ranks that share each layer's experts out among them: each holds its part of the routed experts, and
    tokens are sent to the rank that has theirs."""
    context: int
    """Consecutive ranks that share each sequence among them: each has its stretches of it, and they send each other
    what attention needs to know of a token."""
    context_by: str
    """entries | heads | auto: what they send each other."""

    def __post_init__(self):
        require_positive("parallel.experts", self.experts, 2**14)
        require_positive("parallel.context", self.context, 2**14)
        require_choice("parallel.context_by", self.context_by, ("entries", "heads", "auto"))
