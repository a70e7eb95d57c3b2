# SPDX-License-Identifier: GPL-3.0-or-later
"""Python on this host takes the machine for another one; its programs are the machine's own."""

import os
import time


def _face():
    """What is said of the machine: by its kind, and over that by faults."""
    found: dict[str, str] = {}
    for path in ("/usr/lib/snapsim/face", "/etc/lab-face"):
        try:
            with open(path) as lines:
                pairs = (line.rstrip("\n").partition("=") for line in lines if "=" in line)
                found.update((key, value) for key, _, value in pairs)
        except OSError:
            continue
    return found


def _put_on(face):
    real_uname, real_time, real_ns = os.uname, time.time, time.time_ns
    if face.get("machine") or face.get("kernel"):

        def uname():
            told = real_uname()
            kernel, machine = face.get("kernel") or told.release, face.get("machine") or told.machine
            return os.uname_result((told.sysname, told.nodename, kernel, "#15-Ubuntu SMP PREEMPT_DYNAMIC", machine))

        os.uname = uname
    if face.get("cores"):
        os.cpu_count = lambda: int(face["cores"])
    if face.get("clock"):
        offset = float(face["clock"])
        time.time = lambda: real_time() + offset
        time.time_ns = lambda: real_ns() + int(offset * 1e9)


_put_on(_face())
