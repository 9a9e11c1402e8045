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
    "profile.",
    "sample.",
    "sweep.",
    "tracking.",
)
"""Where things are, what is kept of the run, where it is started."""
EXECUTION = (
    "zero",
    "offload",
    "parallel.",
    "attention.kernel",
    "deepspeed.comms_logger",
    "deepspeed.memory_breakdown",
    "deepspeed.timers",
    "deepspeed.wall_clock_breakdown",
    "deepspeed.zero_optimization.allgather_",
    "deepspeed.zero_optimization.contiguous_gradients",
    "deepspeed.zero_optimization.max_live_parameters",
    "deepspeed.zero_optimization.max_reuse_distance",
    "deepspeed.zero_optimization.overlap_comm",
    "deepspeed.zero_optimization.param_persistence_threshold",
    "deepspeed.zero_optimization.prefetch_bucket_size",
    "deepspeed.zero_optimization.reduce_",
    "deepspeed.zero_optimization.stage3_",
    "deepspeed.zero_optimization.sub_group_size",
    "deepspeed.zero_optimization.use_",
    "deepspeed.zero_optimization.zero_hpz_",
    "training.micro_batch_size",
    "training.activation_checkpointing",
    "training.mlp_tile_tokens",
    "training.compile",
)
"""How a step is computed: rounding alone. Of `deepspeed` what moves numbers and changes none; the rest of it, quantized
weights and gradients above all, is another variant."""
OBSERVATION = ("training.log_every", "training.eval_every", "training.ema")
"""When the run is looked at, and the average of its weights that is kept beside."""
