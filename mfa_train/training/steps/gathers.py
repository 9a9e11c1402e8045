"""What a forward pass waits for under ZeRO 3: each layer's parameters are gathered of all ranks as it comes to them.

The slowest rank comes last to every gather and waits for nobody, while the others wait for it: the time of a pass is
the same on all of them, and what tells them apart is what of it was waiting. So the fetches of DeepSpeed's coordinator
are timed, and a rank's own work is what remains. On a CPU the clock is read around each; on a GPU an event is left on
the stream of the computing before and behind it, between which that stream stands still for what is gathered. Nothing
waits for it.

What it gives up: a fetch's own sending counts as waiting, on every rank alike, and on a GPU so does the host's time in
DeepSpeed's Python where the device has run out of work.
"""

from typing import Any

import torch

from mfa_train.training.steps.phases import Phases


def time_gathers(engine, phases: Phases) -> None:
    """Has the fetches of the engine's parameters, which is of ZeRO 3, timed by `phases`."""
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    fetch = coordinator.fetch_sub_module

    @torch.compiler.disable
    def timed(submodule: torch.nn.Module, forward: bool) -> Any:
        phases.wait_in_pass(lambda: fetch(submodule, forward=forward))

    coordinator.fetch_sub_module = timed
