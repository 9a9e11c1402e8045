"""The model inside DeepSpeed: the same path for one process on a laptop and for ZeRO 3 on many nodes."""

import contextlib
import gc
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from mfa_train.attention import attention_config
from mfa_train.budget.memory import reduce_bucket
from mfa_train.config import Config
from mfa_train.config.deepspeed_schema import merged
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.initialization import EmptyWeights, Gather, InitialValues, initialize
from mfa_train.model.tiles import compute_in_tiles
from mfa_train.parallel.groups import ALONE, ExpertGroup
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.saving.engine_state import fill, take_those_of_first_rank
from mfa_train.training.steps.average import WeightAverage
from mfa_train.training.steps.expert_parallel import (
    compile_around_exchanges,
    join_expert_group,
    known_to_deepspeed,
    mark,
    mark_in,
    mend_norm_of_stage_0,
    require_known_to,
)
from mfa_train.training.steps.optimizer import make_optimizer

UNCLIPPED = 1e30
"""A norm that no gradient exceeds: DeepSpeed keeps the norm only where it clips, and the guard needs it always."""


def build_model(
    config: Config,
    sharded: contextlib.AbstractContextManager = contextlib.nullcontext(),
    gather: Gather = lambda parameter: contextlib.nullcontext(),
    group: ExpertGroup = ALONE,
) -> LanguageModel:
    """The config's model with its initial weights, in float32 on the CPU; or as `sharded` makes and `gather` opens
    it. The ranks of `group` share experts out."""
    with sharded:
        model = _model(config, group)
    initialize(model, config.model.initialization, config.seed, config.model.num_hidden_layers, gather)
    return model


def _model(config: Config, group: ExpertGroup) -> LanguageModel:
    return LanguageModel(config.model, attention_config(config.attention), config.training.z_loss, group=group)


def import_deepspeed() -> ModuleType:
    """DeepSpeed, quiet, and without what a run here does not use of it."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # its names from before 2.13
    # Which of its extensions could be compiled, asked by compiling and linking at every start, all for one: that for
    # sums between processes of one CPU. It would be compiled at the first start, and a start that is killed then leaves
    # a lock for which every later one waits for ever (torch.utils.file_baton). None can, then.
    deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    # Whatever the optimizer is, DeepSpeed imports its Muon, which torch.compile decorates: a second, for Inductor.
    names = vars(torch)
    compile, names["compile"] = names["compile"], _not_compiled
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer
    except ImportError:
        pass  # another version
    finally:
        names["compile"] = compile
    return deepspeed


def _not_compiled(function: Callable | None = None, **_) -> Callable:
    """In place of torch.compile, as a decorator with arguments or without."""
    return _not_compiled if function is None else function


def build_engine(config: Config, ranks: Ranks, dtype: torch.dtype, fresh: bool = True):
    """A DeepSpeedEngine around the model and AdamW. Its learning rate is the caller's to set before each step; its
    weights are the initial ones only where it is `fresh`."""
    deepspeed = import_deepspeed()
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

    settings = deepspeed_config(config, ranks, dtype)
    # DeepSpeed prints its memory here, whatever its log level, and looks for garbage first, six times.
    with contextlib.redirect_stdout(io.StringIO()), _nothing_is_garbage():
        group = join_expert_group(config.parallel.experts, ranks)
        sharded = deepspeed.zero.Init(config_dict_or_path=settings) if config.zero == 3 else contextlib.nullcontext()
        if config.zero == 3:
            mark_in(sharded)
        by_parts = fresh and config.model.initialization.draw > 1
        if fresh and not by_parts:
            model = build_model(
                config, sharded, lambda parameter: deepspeed.zero.GatheredParameters(parameter, modifier_rank=0), group
            )
        else:  # each rank's share of the masters is set below, or from a checkpoint, and the weights are made of them
            if config.zero == 3:
                _share_out_in_silence(sharded)
            with sharded, EmptyWeights(dtype, ranks.device):
                model = _model(config, group)
        model.model.activation_checkpointing = config.training.activation_checkpointing
        tiled = compute_in_tiles(model, config.training.mlp_tile_tokens, config.training.compile)
        if config.zero == 3:  # its weights are gathered once, for all tiles
            for module in tiled:
                deepspeed.utils.set_z3_leaf_module(module, True)
        if config.training.compile:
            compile_around_exchanges(model)
            for layer in model.model.layers:
                layer.compile()
            model.lm_head.compile()
        if config.zero < 3:
            for parameter in model.parameters():
                mark(parameter)
        optimizer = make_optimizer(model, config)
        bucket = reduce_bucket(
            sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters())
        )
        settings["zero_optimization"].setdefault("reduce_bucket_size", bucket)
        with known_to_deepspeed(model):
            engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=settings, dist_init_required=False
            )
    require_known_to(engine)
    if config.zero == 0:
        _mend_stage_0(engine, optimizer, dtype)
        mend_norm_of_stage_0(engine, dtype)
    if config.training.ema is not None:  # now that stage 0 has taken its step before the first
        optimizer.average = WeightAverage(config.training.ema)
    if by_parts:
        values = InitialValues(model, config.model.initialization, config.seed, config.model.num_hidden_layers)
        fill(engine, values)
        if config.zero == 0 and ranks.world_size > 1:
            take_those_of_first_rank(engine)
    if ranks.world_size == 1 and isinstance(engine.optimizer, BF16_Optimizer):
        # It would flatten all gradients, sum them over one process and copy them back. (Other wrappers work in that
        # pass.)
        engine.enable_backward_allreduce = False
    return engine


def _share_out_in_silence(sharded) -> None:
    """Makes deepspeed.zero.Init keep each rank's share of a parameter without sending it rank 0's values: they are the
    same constants everywhere."""

    def share_out(parameter: Any) -> None:
        sharded._convert_to_deepspeed_param(parameter)
        parameter.partition()

    sharded._zero_init_param = share_out


@contextlib.contextmanager
def _nothing_is_garbage() -> Iterator[None]:
    """What is there is not looked through meanwhile: a million objects of imports, a quarter of a second each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _mend_stage_0(engine, optimizer: torch.optim.AdamW, dtype: torch.dtype) -> None:
    """Makes stage 0 follow the curve of the other stages, and tell its gradient norm.

    In float32 DeepSpeed clips at stage 0 without keeping the norm. In bf16 its stage 0 wrapper (FP16_UnfusedOptimizer)
    takes one AdamW step on zero gradients while it starts: the weights would be decayed once (not here: the learning
    rate is still 0), and Adam's bias correction would run a step ahead for good. It also adds up gradients in bf16,
    where the other stages use float32.
    """
    if dtype == torch.float32:

        def clip_and_keep_norm() -> None:
            engine._global_grad_norm = torch.nn.utils.clip_grad_norm_(
                engine.module.parameters(), engine.gradient_clipping()
            )

        engine.clip_fp32_gradients = clip_and_keep_norm
        return
    for state in optimizer.state.values():
        state["step"].zero_()
    for parameter in engine.module.parameters():
        parameter.grad_dtype = torch.float32


def deepspeed_config(config: Config, ranks: Ranks, dtype: torch.dtype) -> dict:
    """DeepSpeed's own JSON for this run, what the node `deepspeed` gives merged last."""
    context = config.parallel.context
    micro_batch = config.training.micro_batch(ranks.world_size // context)
    zero: dict[str, Any] = {"stage": config.zero}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    settings = {
        # It is not told that ranks share sequences: each gives the mean over as many tokens, and it averages those.
        "train_batch_size": config.training.batch_size * context,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_clipping": config.training.gradient_clipping or UNCLIPPED,
        # Stage 1 in bf16 adds each gradient to its float32 sum as it comes and frees it, instead of keeping all of the
        # pass's gradients to its end to cast, add and zero them there.
        "bf16": {"enabled": dtype == torch.bfloat16, "immediate_grad_update": True},
        # By default bf16 gradients are also summed in bf16, and the curve would depend on the number of processes.
        "communication_data_type": "fp32",
        # Stage 0 refuses a type for sums that differs from the model's; `_mend_stage_0` sees to it.
        "data_types": {"grad_accum_dtype": "fp32"} if config.zero else {},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,  # ours is torch's AdamW
        "steps_per_print": None,
        # It would wait for the device twice a pass, and tell nobody.
        "timers": {"throughput": {"enabled": False}},
    }
    return merged(settings, config.deepspeed)
