# SPDX-License-Identifier: GPL-3.0-or-later
"""The ports 16443: a listening socket here, systemd's small proxy behind it."""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Sequence
from pathlib import Path
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


def api_port(argv: Sequence[str]) -> int:
    """The control plane's port, in front of the real API server."""
    forward("0.0.0.0", Host().api_url.removeprefix("https://").rstrip("/"))


def endpoints(text: str) -> list[str]:
    return re.findall(r"^\s*- address: (\S+)$", text, re.MULTILINE)


def render_endpoints(addresses: Sequence[str]) -> str:
    """The proxy's configuration: the control plane's addresses."""
    servers = "".join(f"        - address: {a}:{API_PORT}\n" for a in addresses)
    return (
        "tcp:\n  routers:\n    Router-1:\n      rule: HostSNI(`*`)\n      service: kube-apiserver\n"
        "      tls:\n        passthrough: true\n  services:\n    kube-apiserver:\n      loadBalancer:\n"
        f"        servers:\n{servers}"
    )


class Proxy:
    """A worker's local way to the control plane: any of its endpoints that answers, the last good one first."""

    def __init__(self, provider: Path, patience: float = 1.0) -> None:
        self.provider, self.patience = provider, patience
        self.last = ""
        self.other: dict[socket.socket, socket.socket] = {}

    def connect(self) -> socket.socket | None:
        known = endpoints(self.provider.read_text()) if self.provider.exists() else []
        for endpoint in sorted(known, key=lambda e: e != self.last):
            address, _, port = endpoint.rpartition(":")
            try:
                there = socket.create_connection((address, int(port)), self.patience)
            except OSError:
                continue
            there.settimeout(5)
            self.last = endpoint
            return there
        return None

    def accept(self, listener: socket.socket) -> None:
        here, _peer = listener.accept()
        there = self.connect()
        if there is None:
            here.close()
        else:
            here.settimeout(5)
            self.other |= {here: there, there: here}

    def pump(self, source: socket.socket) -> None:
        if source not in self.other:
            return  # its other end broke in the same round
        try:
            data = source.recv(65536)
            if data:
                self.other[source].sendall(data)
                return
        except OSError:
            pass
        for end in (source, self.other.pop(source)):
            self.other.pop(end, None)
            end.close()

    def run(self, listener: socket.socket) -> NoReturn:
        while True:
            for ready in select.select([listener, *self.other], [], [])[0]:
                self.accept(listener) if ready is listener else self.pump(ready)


def apiserver_proxy(argv: Sequence[str]) -> int:
    host = Host()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.settings.loopback, API_PORT))
    listener.listen(64)
    Proxy(host.args / "traefik/provider.yaml").run(listener)
