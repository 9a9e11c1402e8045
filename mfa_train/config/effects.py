"""Keys that change no number of a run, by why. Each tuple holds beginnings of keys.

Three questions start from these, and each adds what holds for it alone: what may differ when a run goes on
(`training.resuming.changes`), what leaves a curve one (`training.resuming.stretches`), and what makes no variant of a
comparison (`scaling.study.variants`).
"""

BOOKKEEPING = (
    "name",
    "runs_dir",
    "data_dir",
    "data.path",
    "data.cache_",
    "resume",
    "cache.",
    "checkpoint.",
    "cluster.",
    "evaluation.",
    "sample.",
    "sweep.",
    "tracking.",
)
"""Where things are, what is kept of the run, where it is started."""
EXECUTION = (
    "zero",
    "offload",
    "attention.kernel",
    "training.micro_batch_size",
    "training.activation_checkpointing",
    "training.compile",
)
"""How a step is computed: rounding alone."""
OBSERVATION = ("training.log_every", "training.eval_every")
"""When the run is looked at."""
