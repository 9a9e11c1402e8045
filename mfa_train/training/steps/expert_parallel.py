"""What DeepSpeed is told of experts that ranks share out (parallel.experts above 1).

DeepSpeed has machinery for experts of its own layers (`AutoEPMoELayer`); the layer here is this project's, so that
routing, names, initial weights and checkpoints are what they are on one rank, and takes that machinery's groups and
marks alone. An expert's gradient already sums what its whole expert group sent it; DeepSpeed adds up those of the ranks
that have the same expert, and divides by all ranks. All that is private to DeepSpeed and used here is looked for at the
start (`require_known_deepspeed`).
"""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mfa_train.errors import TrainingError
from mfa_train.parallel.groups import ALONE, ExpertGroup, consecutive, same_experts
from mfa_train.parallel.parameters import stretch_of
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.steps.phases import Phases


def group_name(experts: int) -> str:
    """DeepSpeed's, of the groups of so many ranks; the optimizer's group of parameters is named so too."""
    return f"ep_size_{experts}"


def join_expert_group(experts: int, ranks: Ranks) -> ExpertGroup:
    """The group of this rank, where `experts` ranks share experts out. Every rank makes all groups, alike, before the
    model. Raises TrainingError where DeepSpeed is another than the one that this was written for."""
    if experts == 1:
        return ALONE
    import deepspeed
    from deepspeed.utils import groups

    require_known_deepspeed()
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    groups._create_expert_and_data_parallel(experts)
    name = group_name(experts)
    together = next(group for group in consecutive(ranks.world_size, experts) if ranks.rank in group)
    alike = next(group for group in same_experts(ranks.world_size, experts) if ranks.rank in group)
    handle, data = groups._get_expert_parallel_group(name), groups._get_expert_data_parallel_group(name)
    if [dist.get_process_group_ranks(group) for group in (handle, data)] != [together, alike]:
        raise _unknown("its expert groups are of other ranks")
    return ExpertGroup(together.index(ranks.rank), experts, handle)


def expert_group_handle(experts: int) -> dist.ProcessGroup:
    """Of this rank's expert group, which `join_expert_group` has made."""
    from deepspeed.utils import groups

    return groups._get_expert_parallel_group(group_name(experts))


def require_known_deepspeed() -> None:
    """Raises TrainingError where a private name is gone that experts rest on."""
    try:
        from deepspeed.module_inject import auto_ep_layer
        from deepspeed.runtime import engine
        from deepspeed.runtime.fp16 import unfused_optimizer
        from deepspeed.runtime.zero import partition_parameters, stage3
        from deepspeed.utils import groups
    except ImportError as error:
        raise _unknown(str(error)) from error
    wanted = {
        groups: ("_create_expert_and_data_parallel", "_get_expert_parallel_group", "_get_expert_data_parallel_group"),
        auto_ep_layer: ("class AutoEPMoELayer",),
        engine: ("import AutoEPMoELayer", "self.has_moe_layers", "group_name"),
        unfused_optimizer: ("unscale_and_clip_grads(self, total_norm, apply_scale", "_global_grad_norm"),
        partition_parameters: ("_convert_to_deepspeed_param(self, param", "ds_zero_partition_process_group"),
        stage3: ("ds_zero_placement_family", "autoep_expert"),
    }
    for module, names in wanted.items():
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        for name in names:
            if name not in text:
                raise _unknown(f"{module.__name__} has no {name}")


def _unknown(what: str) -> TrainingError:
    import deepspeed

    return TrainingError(
        f"parallel.experts: DeepSpeed {deepspeed.__version__} is not as the one that this works with ({what}): "
        "pip install -c constraints.txt deepspeed, or type parallel.experts=1"
    )


def shared_out(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of which this rank has a stretch."""
    return [parameter for parameter in model.parameters() if stretch_of(parameter) is not None]


def mark(parameter: Tensor) -> None:
    """Tells DeepSpeed which ranks have the same of `parameter`, where it is experts' that ranks share out."""
    if (stretch := stretch_of(parameter)) is None:
        return
    from deepspeed.utils import groups

    name, marked = group_name(stretch.ranks), vars(parameter)
    marked["allreduce"], marked["group_name"] = False, name  # stages 0, 1, 2, and what is sent at the start
    marked["ds_zero_partition_process_group"] = groups._get_expert_data_parallel_group(name)  # stage 3: zero.Init
    # Stage 3's optimizer: by this name it divides by all ranks.
    marked["ds_zero_placement_family"], marked["ds_zero_partition_group_name"] = "autoep_expert", name


def mark_in(sharded: Any) -> None:
    """Makes deepspeed.zero.Init share experts out over the ranks that have the same ones: `mark` in time."""
    convert = sharded._convert_to_deepspeed_param

    def marked(parameter: Tensor) -> None:
        mark(parameter)
        convert(parameter)

    sharded._convert_to_deepspeed_param = marked


@contextlib.contextmanager
def known_to_deepspeed(model: nn.Module) -> Iterator[None]:
    """Within the block, where an engine is made, DeepSpeed finds the model's layers of shared experts to be of its
    own kind (engine.has_moe_layers)."""
    if not (parameters := shared_out(model)):
        yield
        return
    import deepspeed.module_inject.auto_ep_layer as layers

    mine = {id(parameter) for parameter in parameters}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in mine and (stretch := stretch_of(parameter)):
                vars(module).update(num_experts=stretch.experts, set_deepspeed_parallelism=_nothing_to_set)
    kinds = tuple({type(module) for module in model.modules() if hasattr(module, "set_deepspeed_parallelism")})
    before, layers.AutoEPMoELayer = layers.AutoEPMoELayer, kinds
    try:
        yield
    finally:
        layers.AutoEPMoELayer = before


def _nothing_to_set(*_, **__) -> None:
    pass


def require_known_to(engine) -> None:
    """Raises TrainingError where the engine has not taken experts for shared out."""
    parameters = shared_out(engine.module)
    if not parameters:
        return
    if not engine.has_moe_layers:
        raise _unknown("its engine did not find the experts")
    for parameter in parameters:
        over, stretch = getattr(parameter, "ds_process_group", None), stretch_of(parameter)
        if over is not None and stretch and dist.get_world_size(over) * stretch.ranks != dist.get_world_size():
            raise _unknown("its stage 3 has shared experts out over other ranks")


def mend_norm_of_stage_0(engine, dtype: torch.dtype) -> None:
    """Makes stage 0 clip by the norm of the whole gradient. DeepSpeed's own has of the experts only this rank's
    (float32), or none (bf16)."""
    if not shared_out(engine.module):
        return
    if dtype == torch.float32:

        def clip_and_keep_norm() -> None:
            parameters = [parameter for parameter in engine.module.parameters() if parameter.grad is not None]
            norm = engine._global_grad_norm = whole_norm((one, one.grad) for one in parameters)
            nn.utils.clip_grads_with_norm_(parameters, engine.gradient_clipping(), norm)

        engine.clip_fp32_gradients = clip_and_keep_norm
        return
    optimizer, clip = engine.optimizer, engine.optimizer.unscale_and_clip_grads

    def unscale_and_clip(_, apply_scale=True):  # the masters have their gradients by now
        optimizer._global_grad_norm = whole_norm(
            (weight, master.grad)
            for weights, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups)
            for weight, master in zip(weights, masters)
        )
        return clip(optimizer._global_grad_norm, apply_scale)

    optimizer.unscale_and_clip_grads = unscale_and_clip


@torch.no_grad()
def whole_norm(gradients: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Of (weight, its reduced gradient) of all that this rank has: the same bits on every rank, as all add up the
    experts' squares of all."""
    here: list[Tensor] = []
    shared: list[Tensor] = []
    copies = 1
    for weight, gradient in gradients:
        square = gradient.float().norm() ** 2
        if (stretch := stretch_of(weight)) is None:
            here.append(square)
        else:
            shared.append(square)
            copies = dist.get_world_size() // stretch.ranks
    of_experts = torch.stack(shared).sum()
    dist.all_reduce(of_experts)
    return (torch.stack(here).sum() + of_experts / copies).sqrt()


def time_exchanges(engine, phases: Phases) -> None:
    """Has what a pass waits for other ranks' tokens timed by `phases`."""
    for module in engine.module.modules():
        if isinstance(group := getattr(module, "group", None), ExpertGroup) and group.size > 1:
            group.waits = phases.wait_in_pass


def compile_around_exchanges(model: nn.Module) -> None:
    """Leaves the layers' exchanges out of what torch.compile is about to compile: how many rows go where is another
    number in each pass."""
    for module in model.modules():
        if isinstance(group := getattr(module, "group", None), ExpertGroup) and group.size > 1:
            module.exchanged = torch.compiler.disable(module.exchanged)
