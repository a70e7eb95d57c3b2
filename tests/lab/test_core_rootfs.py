# SPDX-License-Identifier: GPL-3.0-or-later
"""Package sources of the root file system, from what apt knows."""

from __future__ import annotations

import pytest

from lab.netns import cgroup_mount, check_cgroups
from lab.paths import LabError
from lab.rootfs import source_lines

TARGETS = """\
Debian|bookworm|main|http://mirror.example/debian/
Debian|bookworm|contrib|http://mirror.example/debian/
Debian|bookworm-updates|main|http://mirror.example/debian/
Debian|bookworm-security|main|http://mirror.example/debian-security/
Debian|bookworm|main|http://mirror.example/debian/
Some Vendor|nodistro|main|https://vendor.example/
Debian|trixie|main|http://mirror.example/debian/
"""


def test_only_the_distributions_own_archives_of_the_suite() -> None:
    assert source_lines(TARGETS, "bookworm") == [
        "deb http://mirror.example/debian/ bookworm main contrib",
        "deb http://mirror.example/debian/ bookworm-updates main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
    ]


@pytest.mark.parametrize("suite", ["jammy", ""])
def test_no_source_is_one_clear_sentence(suite: str) -> None:
    with pytest.raises(LabError, match="apt-get update"):
        source_lines(TARGETS, suite)


def test_cgroups_on_a_machine_of_version_2_and_a_hybrid_one() -> None:
    pure = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
    hybrid = "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    assert str(cgroup_mount(pure)) == "/sys/fs/cgroup"
    assert str(cgroup_mount(hybrid)) == "/sys/fs/cgroup/unified"


def test_a_machine_without_cgroup2_is_refused() -> None:
    with pytest.raises(LabError, match="no cgroup2"):
        cgroup_mount("cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n")


def test_a_place_without_control_groups_to_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(LabError, match="read-only here"):
        check_cgroups()
