"""One job at a time in a run folder. The lock is the kernel's (flock): it is gone when its process is, however that
ended."""

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path

from mfa_train.errors import ConfigError

FILE = "run.lock"


class RunLock:
    """A run folder's lock: held from `take` to `release`, or to the end of the process. Its file says who holds it."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.descriptor: int | None = None

    def take(self) -> None:
        """Takes it, where it isn't held already. Raises ConfigError where another process holds it."""
        if self.descriptor is not None:
            return
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot be written ({error.strerror}); type runs_dir=FOLDER with one that "
                "can, or with room"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 4096).decode(errors="replace").strip()
            os.close(descriptor)
            raise ConfigError(
                f"{self.path.parent}: another process works in this run folder ({holder or 'unknown'}); "
                "type name=… for a run beside it, or end that process"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(
                f"{self.path}: its file system cannot lock files ({error.strerror}); type runs_dir=FOLDER on one "
                "that can"
            ) from None
        self.descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk: it is held all the same
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
