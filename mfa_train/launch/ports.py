"""Ports of this machine on which the ranks of a job meet."""

import socket

from mfa_train.errors import ConfigError


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def require_free(port: int) -> None:
    """Raises ConfigError where another process listens on `port`."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise ConfigError(
                f"cluster.port={port}: {error.strerror}: type cluster.port={port % 60000 + 1024}, or end "
                "what listens there"
            ) from None
