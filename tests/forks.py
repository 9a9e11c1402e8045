"""Python, torch and DeepSpeed started once: a test's `python train.py …` is forked from a process that has them.

Most of a small run's time is imports. So each pytest process has a server, started at its first command, which imports
what the commands import and then only forks. `subprocess.Popen`, and with it `subprocess.run`, gives it the commands
that `_script` knows; the child gets their words, folder, environment and file descriptors, its own process id and the
signals sent to it, and tests are written as if there were no server. A forked launcher forks its ranks in the same way.

What differs from the real command: modules are imported and files of configs/ composed already, the seed of str's hash
is the server's, and /proc/PID/cmdline too; a CPU's peak is measured for an eighth of a second instead of half of one,
and what activations take is counted by the first command of a shape alone. So a command whose environment has another
value for what is read at start and import (`READ`) is executed, and so are those of tests that are marked
`real_command`. A `sitecustomize` that stands alone in a folder of PYTHONPATH is run by the child, when all is imported.
"""

import atexit
import contextlib
import fcntl
import gc
import hashlib
import importlib
import json
import os
import random
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [
    str(ROOT / script)
    for script in (
        *("train.py", "tests/end_to_end/poisoned.py", "tests/budget/real_memory.py"),
        *("tests/training/engine_calls.py", "tests/training/engine_roundtrip.py", "tests/training/init_from_ranks.py"),
        *("tests/training/slow_ranks.py", "tests/training/ema_ranks.py", "tests/training/positions.py"),
        *("tests/launch/sleeping_sweep.py", "tests/parallel/training_ranks.py", "tests/parallel/context_ranks.py"),
    )
]
MODULES = ["mfa_train.cli", "mfa_train.launch.rank", "torch.distributed.run"]
READ = re.compile("(PYTHON|LD_|OMP_|GOMP_|KMP_|MKL_|DNNL_|ONEDNN_|ATEN_|TORCH_(?!NCCL)|CUDA|DS_|HF_|COLUMNS)")
"""Environment variables that are read as Python starts or a library is imported."""
PRELOADED = [
    *(*MODULES, "mfa_train.training.run", "mfa_train.launch.sweep", "torch._dynamo", "wandb", "hydra"),
    *("mfa_train.scaling.compare", "matplotlib.pyplot"),
]

_execute = subprocess._fork_exec
_plain_popen = subprocess.Popen
_starting = threading.local()
_register, _at_exit = atexit.register, []
_server: "Server | None" = None


def _script(words: list[str], folder: str) -> str | None:
    """What `words` run, as `train.py` or `-m mfa_train.cli`, where it is one of those that are forked."""
    if words[:1] != [sys.executable]:
        return None
    rest = [word for word in words[1:3] if word != "-u"] + words[3:]
    if rest[:1] == ["-m"]:
        return rest[1] if rest[1] in MODULES else None
    return rest[0] if rest and os.path.join(folder, rest[0]) in SCRIPTS else None


def _as_read(environment: dict[str, str]) -> dict[str, str]:
    read = {name: value for name, value in environment.items() if READ.match(name)}
    if "PYTHONPATH" in read and not [folder for folder in _path(environment) if not _customizes_alone(folder)]:
        del read["PYTHONPATH"]
    return read


def _path(environment: dict[str, str]) -> list[str]:
    """The folders of PYTHONPATH, but for the one that the library is installed from."""
    return [folder for folder in environment.get("PYTHONPATH", "").split(":") if folder not in ("", str(ROOT))]


def _customizes_alone(folder: str) -> bool:
    """Whether a folder of PYTHONPATH has nothing to import but what Python runs as it starts, as the child does."""
    return [path.name for path in Path(folder).glob("*.py")] == ["sitecustomize.py"]


class Popen(subprocess.Popen):
    """subprocess.Popen, whose child may be the server's."""

    _connection: socket.socket | None = None
    """At whose other end the server tells the child's status."""

    def _execute_child(self, *arguments) -> None:
        _starting.popen = self
        try:
            super()._execute_child(*arguments)
        finally:
            _starting.popen = None

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if self._connection is None:
            return super()._try_wait(flags)
        if flags & os.WNOHANG and not select.select([self._connection], [], [], 0)[0]:
            return 0, 0
        status = _number(self._connection)
        self._connection.close()
        self._connection = None
        return self.pid, status

    def _internal_poll(self, *arguments, **named) -> int | None:
        if self._connection is None:
            return super()._internal_poll(*arguments, **named)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def _fork_or_execute(arguments: list, executables, close_fds, kept, cwd, variables, *rest) -> int:
    """In place of subprocess's own, of the same arguments: the child's process id."""
    popen = getattr(_starting, "popen", None)
    words = [os.fsdecode(word) for word in arguments]
    folder = os.path.abspath(os.fsdecode(cwd or "."))
    given = os.environb.items() if variables is None else (pair.split(b"=", 1) for pair in variables)
    environment = {os.fsdecode(name): os.fsdecode(value) for name, value in given}
    (stdin, _, _, stdout, _, stderr, _, failed, _, session, group, *identity, before, _) = rest
    plain = close_fds and kept == (failed,) and [group, *identity] == [-1, None, None, None, -1]
    if not plain or not _script(words, folder):
        return _execute(arguments, executables, close_fds, kept, cwd, variables, *rest)
    files = [own if given == -1 else given for own, given in enumerate((stdin, stdout, stderr))]
    command = {"words": words, "folder": folder, "environment": environment, "session": bool(session)}
    if _server is None:  # this process was forked itself
        if _as_read(environment) == _as_read(dict(os.environ)):
            return os.fork() or _run(command, files, before)
    elif (
        _server.enabled
        and popen is not None
        and before is None
        and _as_read(environment) == _as_read(_server.environment)
    ):
        pid, popen._connection = _server.fork(command, files)
        return pid
    return _execute(arguments, executables, close_fds, kept, cwd, variables, *rest)


class Server:
    """The other process, as pytest sees it."""

    def __init__(self) -> None:
        self.enabled, self.socket = True, None
        self.note_environment()

    def note_environment(self) -> None:
        """Once all tests are imported, and before the first command: what they import sets variables, as lm-eval does,
        which all commands inherit."""
        self.environment = os.environ | {"PYTHONPATH": str(ROOT)}

    @contextlib.contextmanager
    def same_environment(self) -> Iterator[None]:
        """Takes back what a test sets of the variables that are `READ` and leaves: all commands after it would be
        executed."""
        before = {name: value for name, value in os.environ.items() if READ.match(name)}
        yield
        for name in [name for name in os.environ if READ.match(name) and name not in before]:
            del os.environ[name]
        os.environ.update(before)

    def fork(self, command: dict, files: list[int]) -> tuple[int, socket.socket]:
        """The child's process id, and where its status comes."""
        if self.socket is None:
            self._start()
        here, there = socket.socketpair()
        with there:
            socket.send_fds(self.socket, [b"."], [there.fileno(), *files])
        here.sendall(json.dumps(command).encode() + b"\n")
        return _number(here), here

    def _start(self) -> None:
        self.socket, there = socket.socketpair()
        with there:
            _plain_popen(
                [sys.executable, "-c", f"from tests.forks import serve; serve({there.fileno()})"],
                cwd=ROOT,
                env=self.environment,
                pass_fds=[there.fileno()],
            )


def _number(connection: socket.socket) -> int:
    """What the server says. Raises RuntimeError where it is gone: nothing else would tell it from a status of 0."""
    if len(told := connection.recv(4)) < 4:
        raise RuntimeError("the process that forks the tests' commands has ended")
    return int.from_bytes(told, "little")


def install() -> Server:
    """From now on this process's commands are forked by a server of its own, where they can be."""
    global _server
    _server = Server()
    subprocess._fork_exec, subprocess.Popen = _fork_or_execute, Popen
    return _server


class _Shared(dict):
    """Numbers by key, which processes that were forked from here find in `folder` as well."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def __contains__(self, key) -> bool:
        if not super().__contains__(key) and (file := self._file(key)).exists():
            super().__setitem__(key, int(file.read_text()))
        return super().__contains__(key)

    def __setitem__(self, key, value: int) -> None:
        super().__setitem__(key, value)
        partial = self._file(key).with_suffix(f".{os.getpid()}")
        partial.write_text(str(value))
        partial.rename(self._file(key))

    def _file(self, key) -> Path:
        return self.folder / hashlib.sha256(repr(key).encode()).hexdigest()


def serve(descriptor: int) -> None:
    """Forks until pytest is gone."""
    with tempfile.TemporaryDirectory() as folder:
        _serve(descriptor, folder)


def _serve(descriptor: int, folder: str) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"  # as a run on a CPU does before it imports DeepSpeed
    for name in PRELOADED:
        importlib.import_module(name)
    from mfa_train import config as configs
    from mfa_train.budget import activations, peak
    from mfa_train.training.steps.engine import import_deepspeed

    peak.BURSTS, activations._found = 2, _Shared(folder)
    configs.load(["seed=1"])
    import_deepspeed()
    from wandb.sdk.data_types._private import MEDIA_TMP

    atexit.unregister(MEDIA_TMP.cleanup)  # else the first child to end would remove the folder of all
    del os.environ["DS_ACCELERATOR"]
    subprocess._fork_exec, subprocess.Popen = _fork_or_execute, Popen
    gc.collect()
    gc.freeze()
    requests, children = socket.socket(fileno=descriptor), {}
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    while True:
        for ready, _ in waiting.poll():
            if ready != requests.fileno():
                pid, connection = children.pop(ready)
                waiting.unregister(ready)
                os.close(ready)
                with connection, contextlib.suppress(BrokenPipeError):
                    connection.sendall(os.waitpid(pid, 0)[1].to_bytes(4, "little"))
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
            if not message:
                return
            connection, files = socket.socket(fileno=descriptors[0]), descriptors[1:]
            with connection.makefile("rb") as words:
                command = json.loads(words.readline())
            if not (pid := os.fork()):
                _run(command, files)
            for file in files:
                os.close(file)
            connection.sendall(pid.to_bytes(4, "little"))
            child = os.pidfd_open(pid)
            children[child] = pid, connection
            waiting.register(child, select.POLLIN)


def _run(command: dict, files: list[int], before: Callable[[], None] | None = None) -> NoReturn:
    """Becomes the command, in a process just forked: never returns."""
    status = 1
    try:
        if command["session"]:
            os.setsid()
        _like_executed(command, files)
        if before is not None:
            before()
        status = _status_of([word for word in command["words"][1:] if word != "-u"])
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _like_executed(command: dict, files: list[int]) -> None:
    """File descriptors, signals, environment and what Python makes of them, as after exec."""
    global _server
    _server = None
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.set_wakeup_fd(-1)
    above = [fcntl.fcntl(file, fcntl.F_DUPFD, 3) for file in files]
    for own, file in enumerate(above):
        os.dup2(file, own)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = sys.__stdin__ = open(0, closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    if "-u" in command["words"][1:3]:
        sys.stdout.reconfigure(write_through=True)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    random.seed()
    numpy.random.seed()
    sys.orig_argv = command["words"]
    for folder in _path(command["environment"]):
        sys.modules.pop("sitecustomize", None)
        sys.path.insert(1, folder)
        importlib.import_module("sitecustomize")
    while _at_exit:  # the launcher's
        atexit.unregister(_at_exit.pop())
    for finalizer in list(weakref.finalize._registry):  # folders for a while, which are the server's to remove
        finalizer.atexit = False
    atexit.register = _noted


def _noted(function: Callable, *arguments, **named) -> Callable:
    """atexit.register, of which the children are told."""
    _at_exit.append(function)
    return _register(function, *arguments, **named)


def _status_of(words: list[str]) -> int:
    """Runs `words`, as Python would from its command line; gives the exit status."""
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], os.getcwd()
            sys.modules.pop(words[1], None)  # it is run anew, as __main__
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, os.path.dirname(os.path.abspath(words[0]))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0
