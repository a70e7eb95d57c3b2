# SPDX-License-Identifier: GPL-3.0-or-later
"""How the command line speaks with the supervisor: one JSON line each way over a Unix socket."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.paths import LabError


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits into a socket address (108 bytes), however deep the state directory lies."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen(path: Path) -> socket.socket:
    """The socket appears under its name only when it takes connections."""
    early = path.with_name(path.name + ".new")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with short_path(early) as name:
        server.bind(name)
    early.chmod(0o600)
    server.listen(16)
    early.rename(path)
    return server


def ask(path: Path, /, *, timeout: float = 30.0, **request: Any) -> dict[str, Any]:
    """Send one request; the supervisor's refusal becomes a LabError."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            with short_path(path) as name:
                client.connect(name)
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as stream:
                line = stream.readline()
    except OSError as error:
        raise LabError(f"the lab's supervisor does not answer: {error}") from error
    if not line:
        raise LabError("the lab's supervisor ended while it was asked")
    answer = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer
