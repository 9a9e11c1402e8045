"""Saving while the steps go on.

    1. In the step loop, each rank copies its pieces into host memory. This alone holds up the steps.
    2. A thread of each rank writes its file, summing it on the way, and flushes it, then puts its entry into the ranks'
       store.
    3. Rank 0's thread waits for all entries, writes the manifest and renames: the checkpoint is there.

Nothing in the threads is a collective, so none can meet those of the steps. The next save waits for the one before.
With checkpoint.background=false the steps wait for 2 and 3 as well.

What it gives up: until the rename the newest checkpoint is the one before, so a kill costs at most `every_steps` and
the steps that ran while one was written. A save that fails (a full disk) is told and costs nothing but itself.
"""

import json
import shutil
import threading
import time
from pathlib import Path

import torch

from mfa_train.checkpoints.folders import folder_of, newest_first, plausible, prune, publish
from mfa_train.checkpoints.tensor_files import RNG, key_of, write_pieces
from mfa_train.config import CheckpointConfig
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.saving.engine_state import own_pieces, updates
from mfa_train.training.saving.rng import rng_state
from mfa_train.training.saving.uploads import Uploads

POLL_SECONDS = 0.02


class CheckpointWriter:
    """Writes to `checkpoints`. `earlier_starts` is how often the run was started before: files of an earlier start's
    writers, dead or dying, are not mistaken for this one's. `patience` is how many seconds rank 0 waits for the others'
    files."""

    def __init__(
        self,
        config: CheckpointConfig,
        checkpoints: Path,
        earlier_starts: int,
        ranks: Ranks,
        patience: float,
        uploads: Uploads | None = None,
    ):
        self.config, self.checkpoints, self.earlier_starts = config, checkpoints, earlier_starts
        self.ranks, self.patience, self.uploads = ranks, patience, uploads
        self.buffers: dict[str, torch.Tensor] = {}
        """The copy in host memory, kept from save to save where steps go on meanwhile."""
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None
        """Of the thread, where it is no failure of the disk."""
        self.saved = 0
        self.seconds: list[float] = []
        """That each save took until its checkpoint was visible, of rank 0's since they were last told."""
        self.pruning = threading.Lock()
        if uploads:
            uploads.let_go = self._prune

    def save(self, engine, step: int, content: dict) -> None:
        """Every rank calls it after the same step. `content` is what the manifest holds beside step, updates and
        files."""
        self.wait()
        begun = time.monotonic()
        tensors = self._copied(engine)
        content = {"step": step, "updates": updates(engine), "world_size": self.ranks.world_size} | content
        self.saved += 1
        of_save = (step, self.saved, tensors, content, begun)
        self.thread = threading.Thread(target=self._write, args=of_save, daemon=True)
        self.thread.start()
        if not self.config.background:
            self.wait()
            self.buffers.clear()

    def wait(self) -> None:
        """Waits until what was begun is visible, or told to have failed. Raises what went wrong in the thread
        otherwise."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.error is not None:
            raise self.error

    def _copied(self, engine) -> dict[str, torch.Tensor]:
        """What this rank writes, by its name in the file, in host memory."""
        on_gpu = self.ranks.device.type == "cuda"
        tensors = {RNG: rng_state()}
        for piece in own_pieces(engine, self.ranks.rank, self.ranks.world_size):
            for kind, source in piece.tensors.items():
                key = key_of(kind, piece)
                if key not in self.buffers:
                    self.buffers[key] = torch.empty(source.shape, dtype=torch.float32, pin_memory=on_gpu)
                tensors[key] = self.buffers[key].copy_(source, non_blocking=True)
        if on_gpu:
            torch.cuda.synchronize()
        return tensors

    def _write(self, step: int, number: int, tensors: dict[str, torch.Tensor], content: dict, begun: float) -> None:
        partial = self.checkpoints / f"{folder_of(self.checkpoints, step).name}.partial-{self.earlier_starts}"
        try:
            entry = write_pieces(partial, self.ranks.rank, tensors)
        except Exception as error:
            entry = {"failed": f"rank {self.ranks.rank}: {error}"}
            if not isinstance(error, OSError):
                self.error = error
        try:
            if self.ranks.world_size > 1:
                self.ranks.store.set(f"saved/{number}/{self.ranks.rank}", json.dumps(entry))
            if self.ranks.is_rank_zero:
                self._publish(partial, step, number, entry, content, begun)
        except Exception as error:
            self.error = error

    def _publish(self, partial: Path, step: int, number: int, own: dict, content: dict, begun: float) -> None:
        entries = [own] + [self._entry_of(rank, number) for rank in range(1, self.ranks.world_size)]
        failed = [entry["failed"] for entry in entries if "failed" in entry]
        if not failed:
            try:
                publish(partial, checkpoint := folder_of(self.checkpoints, step), entries, content)
                self.seconds.append(time.monotonic() - begun)
                if self.uploads:
                    self.uploads.saved(checkpoint)
                self._prune()
                return
            except OSError as error:
                failed = [str(error)]
        shutil.rmtree(partial, ignore_errors=True)
        kept = next(filter(plausible, newest_first(self.checkpoints)), None)
        self.ranks.say(
            f"warning: the checkpoint of step {step} could not be written ({failed[0]}); the run goes on, "
            f"and {f'{kept.name} stays the newest' if kept else 'there is none yet'}"
        )

    def _prune(self) -> None:
        try:
            with self.pruning:
                stay = [*self.config.at_steps, *(self.uploads.held() if self.uploads else [])]
                prune(self.checkpoints, self.config.keep_last, self.config.keep_every, stay)
        except OSError as error:
            self.ranks.say(f"warning: an older checkpoint could not be removed ({error}); the run goes on")

    def _entry_of(self, rank: int, number: int) -> dict:
        """The entry in the manifest that the thread of `rank` put into the store, or how it failed."""
        key, deadline = f"saved/{number}/{rank}", time.monotonic() + self.patience
        while not self.ranks.store.check([key]):
            if time.monotonic() > deadline:
                return {"failed": f"rank {rank} had not written its file after {self.patience:.0f} s"}
            time.sleep(POLL_SECONDS)
        entry = json.loads(self.ranks.store.get(key))
        self.ranks.store.delete_key(key)
        return entry
