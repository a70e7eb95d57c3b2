# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for servers that tests start."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that the kernel hands out by itself: such a one may be taken again before the server listens on it.
_PORTS = itertools.count(20000 + os.getpid() % 4096)
# As long as this process lives, no other one that runs tests is given a port that was given here.
_CLAIMS: list[socket.socket] = []


def free_port() -> int:
    """A port of the loopback address that nobody listens on, and that tests give to nobody else."""
    while True:
        port = next(_PORTS)
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as sock:
            try:
                claim.bind(f"\0tokenlabs-test-port-{port}")  # a name without a file, free again when its owner ends
                sock.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
        _CLAIMS.append(claim)
        return port
