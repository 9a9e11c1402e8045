"""Two hosts on this machine: network, process, mount and host-name namespaces of their own, each with a real sshd,
behind one bridge. `cut(2)` takes a host's link down; ssh notices it after 6 seconds, instead of the launcher's 15."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

TOOLS = ("sshd", "ssh", "ssh-keygen", "pdsh", "ip", "unshare", "setpriv")


def missing() -> str | None:
    """Why no such hosts can be had here; None where they can."""
    if os.getuid():
        return "namespaces are made by root alone"
    absent = [name for name in TOOLS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: openssh-server, pdsh, iproute2)"
    made = subprocess.run(["ip", "netns", "add", "mfa-try"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", "mfa-try"], capture_output=True)
    return f"no network namespaces here ({made.stderr.strip()})" if made.returncode else None


class Hosts:
    """Up within `with`. `overrides` launch on them, `environment` has an ssh that reaches them; what is in
    `folder`/private, host 2 does not see. The daemons end with this process, however it ends; what else is left then,
    the next one removes."""

    def __init__(self, folder: Path):
        self.folder, self.number, self.daemons = folder, os.getpid(), []
        self.environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        self.subnet = f"10.{64 + self.number % 64}.{self.number // 64 % 256}"
        self.names = [f"{self.subnet}.{host}" for host in (1, 2)]

    def __enter__(self) -> "Hosts":
        try:
            _remove([self.number, *_left_behind()])
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for daemon in self.daemons:
            daemon.kill()
            daemon.wait()
        _remove([self.number])

    def _start_all(self) -> None:
        folder = self.folder
        folder.chmod(0o755)
        (folder / "private").mkdir()
        Path("/run/sshd").mkdir(exist_ok=True)
        for key in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        self._ip(
            f"link add {self._name('b')} type bridge",
            f"addr add {self.subnet}.254/24 dev {self._name('b')}",
            f"link set {self._name('b')} up",
        )
        for host in (1, 2):
            self._start(host)
        (folder / "bin").mkdir()
        ssh = folder / "bin" / "ssh"
        ssh.write_text(
            f"#!/bin/sh\nexec {shutil.which('ssh')} -i {folder}/key -o StrictHostKeyChecking=no "
            "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=6 -o ServerAliveInterval=1 "
            '-o ServerAliveCountMax=6 "$@"\n'
        )
        ssh.chmod(0o755)
        (folder / "hosts").write_text("".join(f"{name} slots=1\n" for name in self.names))
        (folder / "environment").write_text("# the hosts' names lead nowhere\nGLOO_SOCKET_IFNAME=eth0\n")
        self.overrides = [
            "cluster=ssh",
            f"cluster.hostfile={folder}/hosts",
            f"cluster.environment={folder}/environment",
            "cluster.nodes=2",
            "cluster.devices_per_node=1",
            "cluster.device=cpu",
        ]
        deadline = time.monotonic() + 20
        while any(self.on(name, "true").returncode for name in self.names):
            assert time.monotonic() < deadline, "no sshd came up"
            time.sleep(0.2)

    def on(self, name: str, command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["ssh", "-o", "ConnectTimeout=5", name, command], env=self.environment, capture_output=True, text=True
        )

    def cut(self, host: int) -> None:
        self._ip(f"link set {self._name('v', host)} down")

    def mend(self, host: int) -> None:
        self._ip(f"link set {self._name('v', host)} up")

    def _start(self, host: int) -> None:
        space, link = self._name("n", host), self._name("v", host)
        self._ip(
            f"netns add {space}",
            f"link add {link} type veth peer name eth0 netns {space}",
            f"link set {link} master {self._name('b')} up",
            f"-n {space} addr add {self.subnet}.{host}/24 dev eth0",
            f"-n {space} link set eth0 up",
            f"-n {space} link set lo up",
        )
        private = f"mount -t tmpfs none {self.folder}/private;" if host == 2 else ""
        sshd = (
            f"hostname host-{host}; {private} exec {shutil.which('sshd')} -D -e -f /dev/null -h "
            f"{self.folder}/host_key -o UsePAM=no -o AuthorizedKeysFile={self.folder}/key.pub -o StrictModes=no -o "
            "PidFile=none"
        )
        self.daemons.append(
            subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "ip",
                    "netns",
                    "exec",
                    space,
                    "unshare",
                    "--uts",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                    "sh",
                    "-c",
                    sshd,
                ],
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / f"sshd-{host}.log").open("w"),
            )
        )

    def _name(self, kind: str, host: int | str = "") -> str:
        return f"mfa{kind}{host}-{self.number}"

    def _ip(self, *commands: str) -> None:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)


def _left_behind() -> set[int]:
    """Numbers of hosts whose process is gone."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True).stdout
    numbers = set(map(int, re.findall(r"^mfab-(\d+)", links, re.M)))
    return {number for number in numbers if not Path(f"/proc/{number}").exists()}


def _remove(numbers: Iterable[int]) -> None:
    for number in numbers:
        for kind, names in (("netns", ("n1", "n2")), ("link", ("b", "v1", "v2"))):
            for name in names:
                subprocess.run(["ip", kind, "delete", f"mfa{name}-{number}"], capture_output=True)
