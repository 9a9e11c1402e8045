"""Traces of steps while a run goes on: when, and on which ranks.

1. One is asked for by profile.step, or in the run's folder by `mfa-train profile` (`run_folder.profile_request`): a
   thread of rank 0 looks there every few seconds, and no step waits for the file system.
2. Rank 0 calls for it as ranks call for anything (`processes.agreed_steps`); where nothing was called for, that costs a
   step no question more, and nobody has a profiler.
3. The ranks that are named record: a step to warm up, then those that were asked for. The others just train. A step
   that is rolled back counts as one, with the way back.
4. Each writes its file, packs it in a thread, and says so in the ranks' store; rank 0 makes the whole visible.

What a rank cannot write is told and stops no run. Recorded steps are slower, and all ranks wait while a trace is being
written; no number of the run changes.
"""

import json
import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist

from mfa_train.config import Config
from mfa_train.config.profile_schema import require_ranks
from mfa_train.errors import ConfigError, Stopped
from mfa_train.tracking.records import as_json, parsed
from mfa_train.training.processes.agreed_steps import AgreedSteps
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.run_folder import profile_request as requests
from mfa_train.training.run_folder.profile_request import Request
from mfa_train.training.steps.trace import WARMUP, Trace, compressed, memory_of
from mfa_train.words import first_line

LOOK_SECONDS = 2.0
"""Between two looks for a request."""
LEAD = 2 + WARMUP
"""Steps from rank 0's call to the first that is recorded: one until all know, and the warm-up."""
LAST_SECONDS = 600.0
"""That rank 0 waits for other ranks' files when the steps are over."""
POLL_SECONDS = 0.1
OF_CONFIG = "config"
"""The id of the one that profile.step asks for."""


@dataclass(frozen=True)
class Window:
    """The steps of a trace, by number, and the ranks that record them."""

    id: str
    first: int
    steps: int
    ranks: list[int]

    @property
    def last(self) -> int:
        return self.first + self.steps - 1

    def told(self) -> str:
        steps = f"step {self.first:,}" if self.steps == 1 else f"steps {self.first:,} to {self.last:,}"
        return f"{steps} of rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}"


class Profiling:
    """Makes the traces of one start of a run while it is entered. `between` is called by every rank after each step,
    behind `AgreedSteps.look`; `done` is how many steps are done."""

    def __init__(self, config: Config, ranks: Ranks, agreed: AgreedSteps, done: int):
        self.ranks, self.agreed = ranks, agreed
        self.run, self.total_steps = config.run_dir, config.training.total_steps
        self.called = 0
        """How many were called for through the store."""
        self.planned: list[Window] = []
        """That this rank is to begin."""
        self.open: list[Window] = []
        """Of rank 0: that are not visible yet."""
        self.trace: Trace | None = None
        self.window: Window | None = None
        """What `trace` is of."""
        self.packing: threading.Thread | None = None
        self.request: Request | None = None
        """Of rank 0: the one that was taken."""
        self.waiting: Window | None = None
        """Its steps, before they are called for: it can be taken back until then."""
        self.watch = RequestWatch(self.run)
        if config.profile.step is not None:
            self._plan_of_config(
                Window(OF_CONFIG, config.profile.step, config.profile.steps, config.profile.ranks), done
            )

    def __enter__(self) -> "Profiling":
        if self.ranks.is_rank_zero:
            requests.clear_partial(self.run)
            self.watch.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        self.watch.ended.set()
        why = f"the run {'was over' if error is None else 'ended'} before the profile was made"
        if self.trace is not None and self.window is not None:
            self.trace.abandon()
            self._post(self.window, {"error": why})
        if error is None or isinstance(error, Stopped):  # all ranks are here
            self._finish()
        if self.ranks.is_rank_zero and (request := self.request or self.watch.found or self.watch.new()):
            self._refuse(request, why)

    def between(self, done: int) -> None:
        """Takes what was asked for, begins and ends traces: behind step `done`, before the first one, and when the run
        has gone back to `done`."""
        self._step_is_over()
        if self.ranks.is_rank_zero:
            if self.watch.found is not None and self.request is None:
                self._take(self.watch.found, done)
            if self.waiting is not None:
                self._call_for(self.waiting, done)
            for window in [window for window in self.open if done > window.last]:
                self._show_if_whole(window)
        if self.agreed.due(f"profile-{self.called}", done):
            asked = json.loads(self.ranks.store.get(f"profile-{self.called}/window"))
            self.called += 1
            self._plan(Window(**asked))
        for window in [window for window in self.planned if done == window.first - WARMUP - 1]:
            self.planned.remove(window)
            self._begin(window)

    def _plan_of_config(self, window: Window, done: int) -> None:
        if done <= window.first - WARMUP - 1:
            self._plan(self._cut(window))
        elif self.ranks.is_rank_zero and not requests.folder_of(self.run, window.first).exists():
            self.ranks.say(
                f"profile.step={window.first}: the run goes on after step {done:,}: there will be no profile"
            )

    def _plan(self, window: Window) -> None:
        self.planned.append(window)
        if self.ranks.is_rank_zero:
            self.open.append(window)

    def _cut(self, window: Window) -> Window:
        """Up to the last step of the run."""
        return Window(window.id, window.first, min(window.steps, self.total_steps + 1 - window.first), window.ranks)

    def _take(self, request: Request, done: int) -> None:
        """Says which steps the profile that is asked for will be of, or why there will be none."""
        try:
            window = self._window_of(request, done)
        except ConfigError as error:
            self._refuse(request, str(error))
            return
        try:
            if not requests.answer(self.run, request, first=window.first):  # it was taken back
                self.watch.found = None
                return
        except OSError as error:
            self.ranks.say(f"warning: {self.run / requests.FOLDER} cannot be written ({error.strerror}): no profile")
            self.watch.ended.set()
            return
        self.request, self.waiting = request, window

    def _call_for(self, window: Window, done: int) -> None:
        """Has all ranks make it, as late as can be."""
        if self.request is not None and self.watch.taken_back == self.request.id:
            self.request = self.waiting = None
            self.watch.found = None
        elif done + LEAD == window.first:
            self.ranks.store.set(f"profile-{self.called}/window", json.dumps(asdict(window)))
            self.agreed.call_for(f"profile-{self.called}", done)
            self.waiting = None

    def _window_of(self, request: Request, done: int) -> Window:
        """Raises ConfigError where there can be none."""
        require_ranks("--ranks", request.ranks, self.ranks.world_size)
        earliest = done + LEAD
        if request.step is not None and request.step < earliest:
            raise ConfigError(f"--step={request.step}: the run is at step {done:,}: type one from {earliest + 10:,} on")
        window = Window(request.id, request.step or earliest, request.steps, request.ranks)
        for other in self.open:
            if window.first - WARMUP <= other.last and other.first - WARMUP <= window.last:
                if request.step is not None:
                    raise ConfigError(
                        f"--step={request.step}: {other.told()} are being recorded then (profile.step): type one from "
                        f"{other.last + 1 + WARMUP:,} on"
                    )
                window = Window(window.id, other.last + 1 + WARMUP, window.steps, window.ranks)
        if window.first > self.total_steps:
            raise ConfigError(
                f"the run ends after step {self.total_steps:,}, before a profile from step {window.first:,} on"
            )
        return self._cut(window)

    def _begin(self, window: Window) -> None:
        self.ranks.say(f"profile: {window.told()} are recorded: they are slower, and so say their records")
        if self.ranks.rank not in window.ranks:
            return
        if self.packing is not None:
            self.packing.join()
        trace = Trace(window.first, window.steps, self.ranks.device)
        try:
            trace.begin()
            self.trace, self.window = trace, window
        except Exception as error:  # another profiler is at work, say: a look at the run is no reason to end it
            trace.abandon()
            self._post(window, {"error": first_line(error)})

    def _step_is_over(self) -> None:
        """Counts a step, and writes the trace behind its last."""
        if self.trace is None or not self.trace.step():
            return
        assert self.window is not None
        trace, window, self.trace = self.trace, self.window, None
        try:
            raw = trace.write(requests.partial_of(self.run, window.first), self.ranks.rank)
        except Exception as error:  # no room, say
            trace.abandon()
            self._post(window, {"error": first_line(error)})
            return
        self.packing = threading.Thread(target=self._pack, args=(window, raw, trace.on_gpu), daemon=True)
        self.packing.start()

    def _pack(self, window: Window, raw: Path, on_gpu: bool) -> None:
        try:
            packed = compressed(raw)
            memory = memory_of(self.ranks.rank) if on_gpu else None
            self._post(window, {"trace": packed.name, "bytes": packed.stat().st_size, "memory": memory})
        except OSError as error:
            self._post(window, {"error": first_line(error)})

    def _post(self, window: Window, file: dict) -> None:
        """Tells rank 0 what has become of this rank's part."""
        try:
            self.ranks.store.set(_key(window, self.ranks.rank), as_json(file))
        except dist.DistError:  # rank 0's host has gone: the steps will find out
            pass

    def _show_if_whole(self, window: Window) -> None:
        if self.ranks.store.check([_key(window, rank) for rank in window.ranks]):
            self._show(window)

    def _show(self, window: Window) -> None:
        """Makes the folder visible, with what is in it."""
        self.open.remove(window)
        files = {rank: parsed(self.ranks.store.get(_key(window, rank))) or {} for rank in window.ranks}
        summary = {"id": window.id, "step": window.first, "steps": window.steps, "ranks": files}
        partial = requests.partial_of(self.run, window.first)
        folder = requests.folder_of(self.run, window.first)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            (partial / requests.SUMMARY).write_text(as_json(summary, indent=2) + "\n", encoding="utf-8")
            if folder.exists():  # of the same steps, before a rollback or an earlier start
                shutil.rmtree(folder)
            partial.rename(folder)
            if self.request is not None and self.request.id == window.id:
                requests.remove(self.run, self.request)
                self.request = None
                self.watch.found = None
        except OSError as error:
            self.ranks.say(f"warning: {folder} cannot be written ({error.strerror})")
            if self.request is not None and self.request.id == window.id:
                self._refuse(self.request, f"{folder} cannot be written ({error.strerror})")
            return
        failed = [f"; rank {rank}'s is missing ({file['error']})" for rank, file in files.items() if "error" in file]
        self.ranks.say(f"profile: {window.told()}: {folder}{''.join(failed)}")

    def _refuse(self, request: Request, why: str) -> None:
        self.request = self.waiting = None
        try:
            requests.answer(self.run, request, refused=why)
        except OSError as error:
            self.ranks.say(f"warning: {self.run / requests.FOLDER} cannot be written ({error.strerror}): {why}")
        self.watch.found = None

    def _finish(self) -> None:
        """Waits until what was recorded is visible."""
        if self.packing is not None:
            self.packing.join()
        deadline = time.monotonic() + LAST_SECONDS
        for window in [window for window in self.open if window not in self.planned]:
            try:
                # Not `store.wait`, which holds the store's client: the watchdog asks it, too.
                while window in self.open and time.monotonic() < deadline:
                    self._show_if_whole(window)
                    if window in self.open:
                        time.sleep(POLL_SECONDS)
            except dist.DistError:
                pass
            if window in self.open:
                self.ranks.say(f"warning: not all ranks have written their profile of {window.told()}")


class RequestWatch:
    """Looks in the folder of `run`, in a thread, for a request: `found`, and then whether it stays there, until `found`
    is set to None again."""

    def __init__(self, run: Path):
        self.run = run
        self.found: Request | None = None
        self.taken_back: str | None = None
        """The id of one that is there no more."""
        self.ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.ended.wait(LOOK_SECONDS):
            if self.found is None:
                self.found = self.new()
            elif self._gone(found := self.found):
                self.taken_back = found.id

    def new(self) -> Request | None:
        """The request that is there, where it isn't answered yet."""
        try:
            request = requests.read(self.run)
        except (OSError, ConfigError):  # the command that asks tells what is wrong with it
            return None
        return request if request is not None and request.refused is None else None

    def _gone(self, found: Request) -> bool:
        try:
            return not requests.stands(self.run, found)
        except OSError:
            return False


def _key(window: Window, rank: int) -> str:
    return f"profile/{window.id}/{rank}"
