# SPDX-License-Identifier: GPL-3.0-or-later
"""Python on this host takes the machine for an arm64 one with NVIDIA's kernel; its programs are the machine's own."""

import os

_real = os.uname


def _uname():
    told = _real()
    return os.uname_result(
        (told.sysname, told.nodename, "6.14.0-1015-nvidia", "#15-Ubuntu SMP PREEMPT_DYNAMIC", "aarch64")
    )


os.uname = _uname
