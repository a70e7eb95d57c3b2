# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for servers that tests start."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that the kernel hands out by itself: such a one may be taken again before the server listens on it.
_PORTS = itertools.count(20000 + os.getpid() % 4096)


def free_port() -> int:
    """A port of the loopback address that nobody listens on, and that this process gives to nobody else."""
    while True:
        port = next(_PORTS)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
