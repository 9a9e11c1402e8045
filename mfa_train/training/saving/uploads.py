"""Checkpoints copied to object storage (checkpoint.upload) while the steps go on.

    1. A checkpoint that has got its name on disk is put in line by rank 0. One is on its way at a time; of those that
       wait the newest goes first, and one that is not to stay for good is dropped when a newer one comes.
    2. A thread of each rank copies its share of the files from the run folder; rank 0's also metrics.jsonl and the
       other files that a start needs (RUN_FILES), as they are by then.
    3. When all are there, in their sizes, rank 0 writes the manifest: the checkpoint is there. Then those go that
       `checkpoint.keep_last` and its like no longer keep, and what a killed process left of others.

Nothing in the threads is a collective: ranks tell each other through their store. What fails is made again, later each
time, told once, and ends no run. A start finishes what the one before it had left (`_begin`).

What it gives up: a checkpoint is in the bucket some time after it is on disk; one that is being copied stays on disk
till then; and the bucket has no lock, so that one job at a time works on a run there is for the user to see to.
"""

import functools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mfa_train.checkpoints.folders import folder_of, newest_first, outdated, plausible, step_of
from mfa_train.checkpoints.manifest import MANIFEST
from mfa_train.checkpoints.object_storage import (
    CHECKPOINTS,
    LONGEST_PAUSE_SECONDS,
    StoredRun,
    is_whole,
    patiently,
    why,
)
from mfa_train.checkpoints.tokenizer import FOLDER as TOKENIZER
from mfa_train.checkpoints.weights import SUM, final_checkpoint
from mfa_train.config import CheckpointConfig
from mfa_train.evaluation.scores import FOLDER as EVALUATIONS
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.starts import FILE as STARTS
from mfa_train.tracking.terminal import say
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.run_folder.folder import SUMMARY

RUN_FILES = ("config.yaml", "plan.json", STARTS, METRICS)
"""SUMMARY is copied when all else is there: it says that the run is finished."""
FOLDERS = (f"{CHECKPOINTS}/{TOKENIZER}", EVALUATIONS)
"""Of the run, copied with all their files."""
POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
"""That a run which was asked to stop waits for an upload."""


class Uploads:
    """Copies what the run in `run` saves to `stored`. `start` tells this start of the run from others in the same
    processes."""

    def __init__(self, stored: StoredRun, config: CheckpointConfig, run: Path, ranks: Ranks, start: str):
        self.stored, self.config, self.run, self.ranks = stored, config, run, ranks
        self.prefix = f"upload/{run.name}/{start}"
        self.changed = threading.Condition()
        self.waiting: list[Path] = []
        """Folders that are whole on disk and not there yet; rank 0's alone, as is `current`."""
        self.current: Path | None = None
        self.number = 0
        """Of the last job that rank 0 has put into the store."""
        self.ending = self.given_up = self.warned = self.told_of_dropping = False
        self.let_go: Callable[[], None] = lambda: None
        """Called when a folder needs no longer stay on disk."""
        self.copied: dict[str, tuple[int, int]] = {}
        """By name what this rank has put there: size and time of change."""
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def saved(self, checkpoint: Path) -> None:
        """A folder is there on disk: rank 0 puts it in line. Any thread may call it."""
        with self.changed:
            older = [path for path in self.waiting if path != checkpoint] if checkpoint.name.startswith("step-") else []
            dropped = [path for path in older if not self._stays(path)]
            self.waiting = [path for path in self.waiting if path not in (*dropped, checkpoint)] + [checkpoint]
            self.changed.notify_all()
        if dropped and not self.told_of_dropping:
            self.told_of_dropping = True
            say(
                f"warning: {dropped[0].name} is not uploaded, as {checkpoint.name} was saved before its turn came; "
                "nor are others while an upload takes longer than checkpoint.every_steps of them"
            )

    def saved_final_weights(self) -> None:
        """Likewise of these."""
        for folder in self._final_weights():
            self.saved(folder)

    def _final_weights(self) -> list[Path]:
        """Their folder, and that of their average where there is one."""
        folders = (final_checkpoint(self.run, averaged) for averaged in (False, True))
        return [folder for folder in folders if (folder / SUM).is_file()]

    def held(self) -> list[int]:
        """Steps whose checkpoints must stay on disk: they are being copied, or will be."""
        with self.changed:
            return [step_of(path) for path in (*self.waiting, self.current) if path and path.name.startswith("step-")]

    def finish(self, seconds: float) -> None:
        """Every rank calls it: waits until all is there that was saved, at most so long, and says so."""
        deadline = time.monotonic() + seconds
        with self.changed:
            self.ending = True
            self.changed.notify_all()
        self.thread.join(min(seconds, 2.0))
        if self.thread.is_alive():
            self.ranks.say(f"waits for the upload to {self.stored.url} (at most {seconds:.0f} s)")
            self.thread.join(max(0.0, deadline - time.monotonic()))
        if self.thread.is_alive():
            self.ranks.say(
                f"warning: not all is uploaded to {self.stored.url} after {seconds:.0f} s; what is whole there stays, "
                "and the same command uploads the rest"
            )
        self.give_up()

    def give_up(self) -> None:
        """Nothing more is begun; what is on its way ends with the process."""
        with self.changed:
            self.ending = self.given_up = True
            self.changed.notify_all()

    def _work(self) -> None:
        try:
            if not self.ranks.is_rank_zero:
                self._follow()
                return
            try:
                self._lead()
            finally:  # however it ended: the others would wait for more
                if self.ranks.world_size > 1:
                    self.ranks.store.set(f"{self.prefix}/{self.number + 1}", json.dumps(None))
        except Exception as error:  # whatever it is, it ends no run
            if self.ranks.is_rank_zero and not self.given_up:
                say(f"warning: nothing more is uploaded to {self.stored.url} by this start ({why(error)})")

    def _lead(self) -> None:
        self._until_done(self._begin)
        while (folder := self._next()) is not None:
            done = self._until_done(lambda: self._copy(folder))
            with self.changed:
                self.current = None
                # Once more, unless a newer one takes its place.
                again = not done and folder not in self.waiting and (self._stays(folder) or not self.waiting)
                if again and folder.is_dir():
                    self.waiting.append(folder)
                    self.changed.wait_for(lambda: self.given_up or len(self.waiting) > 1, LONGEST_PAUSE_SECONDS)
            self.let_go()
            if done and self.warned and folder.is_dir():
                self._good_again(folder)
        if not self.given_up:
            self._until_done(lambda: self._copy_run_files(SUMMARY))

    def _until_done(self, act: Callable[[], None]) -> bool:
        """Whether `act` came to its end, in as many attempts as `patiently` makes."""
        try:
            patiently(act, failed=self._warn, final=(ImportError, _ByOthers))
            return True
        except (OSError, ValueError):
            return False
        except _ByOthers as error:
            self._warn(str(error))
            return False

    def _next(self) -> Path | None:
        """The newest that waits; the final weights after all others. None when there is no more."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.ending)
            if not self.waiting or self.given_up:
                return None
            self.current = max(self.waiting, key=lambda path: (path.name.startswith("step-"), path.name))
            self.waiting.remove(self.current)
            return self.current

    def _begin(self) -> None:
        """Cleans up behind killed processes, and puts in line what they did not get to."""
        self.stored.abort_begun()
        self._copy_run_files()
        there = self.stored.checkpoints()
        on_disk = [path for path in newest_first(self.run / CHECKPOINTS) if plausible(path)]
        lacking = [path for path in on_disk if not is_whole(there.get(step_of(path), {}))]
        with self.changed:
            wanted = [path for path in lacking if path == on_disk[0] or self._stays(path)] + self._final_weights()
            self.waiting = [*(path for path in wanted if path not in self.waiting), *self.waiting]

    def _stays(self, folder: Path) -> bool:
        """Whether it is kept for good."""
        if not folder.name.startswith("step-"):
            return True
        step, every = step_of(folder), self.config.keep_every
        return step in self.config.at_steps or bool(every and step % every == 0)

    def _copy(self, folder: Path) -> None:
        """All of one folder. Raises OSError, of this rank's share of the work; _ByOthers."""
        last = MANIFEST if folder.name.startswith("step-") else SUM
        within = f"{CHECKPOINTS}/{folder.name}"
        if not folder.is_dir():  # removed by hand
            return
        content = (folder / last).read_bytes()
        there = self.stored.sizes(within)
        if f"{within}/{last}" in there:
            if self.stored.read(f"{within}/{last}") == content:
                return
            self.stored.remove([f"{within}/{last}"])  # another one: no longer whole from here on
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != last)
        sizes = {f"{within}/{name}": (folder / name).stat().st_size for name in names}
        lacking = [name for name in names if there.get(f"{within}/{name}") != sizes[f"{within}/{name}"]]
        self._with_all_ranks({"folder": folder.name, "names": names, "lacking": lacking})
        self._copy_run_files()
        there = self.stored.sizes(within)
        for name, size in sizes.items():
            if there.get(name) != size:
                raise OSError(f"{name} has {there.get(name, 0):,} bytes there instead of {size:,}")
        if (folder / last).read_bytes() != content:
            raise OSError(f"{folder.name} was saved anew meanwhile")
        self.stored.put(folder / last, f"{within}/{last}")
        self.stored.remove(sorted(there.keys() - sizes.keys()))
        self._prune()

    def _with_all_ranks(self, job: dict) -> None:
        """Has every rank copy its share of the files that `job`, the arguments of `_copy_share`, names."""
        self.number += 1
        size, place = self.ranks.world_size, f"{self.prefix}/{self.number}"
        if size > 1:
            self.ranks.store.set(place, json.dumps(job))
        own = self._copy_share(**job)
        failed = [own] if own else []
        for rank in range(1, size):
            key = f"{place}/{rank}"
            while not self.ranks.store.check([key]):
                if self.given_up:
                    raise _ByOthers("the run has ended")
                time.sleep(POLL_SECONDS)
            if told := self.ranks.store.get(key).decode():
                failed.append(f"rank {rank}: {told}")
            self.ranks.store.delete_key(key)
        if size > 1:  # all have read it
            self.ranks.store.delete_key(place)
        if failed:
            raise _ByOthers(failed[0])

    def _copy_share(self, folder: str, names: list[str], lacking: list[str]) -> str:
        """Copies this rank's files of the folder, `lacking` also where it has before; gives what went wrong."""
        for name in names[self.ranks.rank :: self.ranks.world_size]:
            within = f"{CHECKPOINTS}/{folder}/{name}"
            if name in lacking:
                self.copied.pop(within, None)
            try:
                patiently(functools.partial(self._put, within), failed=self._warn)
            except (OSError, ValueError, ImportError) as error:
                return f"{name}: {why(error)}"
        return ""

    def _follow(self) -> None:
        """What the ranks but the first do: what rank 0 puts into the store."""
        number, store = 1, self.ranks.store
        while True:
            while not store.check([f"{self.prefix}/{number}"]):
                if self.given_up:
                    return
                time.sleep(POLL_SECONDS)
            job = json.loads(store.get(f"{self.prefix}/{number}"))
            if job is None:
                return
            told = self._copy_share(**job)
            store.set(f"{self.prefix}/{number}/{self.ranks.rank}", told)
            number += 1

    def _copy_run_files(self, *others: str) -> None:
        """The run's own files, where they have changed; the summary of an end that is none any more goes."""
        names = [name for name in (*RUN_FILES, *others) if (self.run / name).is_file()]
        for folder in FOLDERS:
            names += sorted(f"{folder}/{path.name}" for path in (self.run / folder).glob("*") if path.is_file())
        for name in names:
            self._put(name)
        if not (self.run / SUMMARY).is_file():
            self.stored.remove([SUMMARY])

    def _put(self, name: str) -> None:
        """A file of the run, unless it is there as it is now."""
        stat = (self.run / name).stat()
        if self.copied.get(name) != (stamp := (stat.st_size, stat.st_mtime_ns)):
            self.stored.put(self.run / name, name)
            self.copied[name] = stamp

    def _prune(self) -> None:
        there, keys = self.stored.checkpoints(), self.config
        whole = [step for step, files in there.items() if is_whole(files)]
        gone = set(outdated(there, whole, keys.keep_last, keys.keep_every, keys.at_steps))
        for step in gone | (there.keys() - set(whole)):
            manifest = f"{CHECKPOINTS}/{folder_of(self.run, step).name}/{MANIFEST}"
            self.stored.remove([manifest, *sorted(there[step].keys() - {manifest})])

    def _warn(self, reason: str) -> None:
        if self.warned or self.given_up:
            return
        self.warned = True
        if self.ranks.world_size > 1 and self.ranks.store.add(f"{self.prefix}/told", 1) > 1:
            return  # by another rank
        rank = f"rank {self.ranks.rank}: " if self.ranks.rank else ""
        say(f"{rank}warning: an upload to {self.stored.url} failed ({reason}); it is tried again, and the run goes on")

    def _good_again(self, folder: Path) -> None:
        self.warned = False
        if self.ranks.world_size > 1:
            self.ranks.store.delete_key(f"{self.prefix}/told")
        say(f"uploads work again: {folder.name} is whole in {self.stored.url}")


class _ByOthers(Exception):
    """A rank could not copy its share, in all its attempts."""
