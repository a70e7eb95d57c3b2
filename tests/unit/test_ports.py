# SPDX-License-Identifier: GPL-3.0-or-later
"""No two processes that run tests are given one port, even before anybody listens on it."""

from __future__ import annotations

import subprocess
import sys

from tests import ports

ASK = """
import itertools, sys
from tests import ports
ports._PORTS = itertools.count(int(sys.argv[1]))
print(ports.free_port(), flush=True)
sys.stdin.read()
"""


def test_a_port_that_was_given_is_given_to_no_other_process() -> None:
    mine = ports.free_port()
    command = [sys.executable, "-c", ASK, str(mine)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin and other.stdout
        theirs = int(other.stdout.readline())
        assert theirs > mine
        third = subprocess.run(command, input="", capture_output=True, text=True, check=True, timeout=60)
        assert int(third.stdout) > theirs
        other.stdin.close()
