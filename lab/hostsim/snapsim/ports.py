# SPDX-License-Identifier: GPL-3.0-or-later
"""The ports 16443: a listening socket here, systemd's small proxy behind it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from typing import NoReturn

from .host import API_PORT, Host

PROXY = "/lib/systemd/systemd-socket-proxyd"


def forward(listen: str, target: str) -> NoReturn:
    """Become the proxy, with the socket handed over as systemd would."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((listen, API_PORT))
    listener.listen(256)
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)  # dup2 of a descriptor on itself leaves it as it was
    env = {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execve(PROXY, [PROXY, "--connections-max=1024", target], env)


def endpoints(text: str) -> list[str]:
    return re.findall(r"^\s*- address: (\S+)$", text, re.MULTILINE)


def api_port(argv: Sequence[str]) -> int:
    """The control plane's port, in front of the real API server."""
    forward("0.0.0.0", Host().api_url.removeprefix("https://").rstrip("/"))


def apiserver_proxy(argv: Sequence[str]) -> int:
    """A worker's local way to the control plane."""
    found = endpoints((Host().args / "traefik/provider.yaml").read_text())
    forward("127.0.0.1", found[0])
