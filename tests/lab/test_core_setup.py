# SPDX-License-Identifier: GPL-3.0-or-later
"""scripts/setup.sh on machines that do not fit: one sentence, and nothing changed.

Each machine is this one with something hidden in a mount namespace of the test's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.paths import REPO

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another machine is pretended by mounts")


@pytest.fixture
def place() -> Iterator[Path]:
    """A clone of what setup.sh looks at, so that nothing it might do happens to this tree; readable for all."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        yield clone(Path(directory))


def clone(place: Path) -> Path:
    repo = place / "repo"
    for part in ("scripts/setup.sh", "lab", "requirements-dev.txt"):
        source, target = REPO / part, repo / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return place


def machine(place: Path, *changes: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run setup.sh after `changes` (shell lines) in a mount namespace that vanishes with it."""
    script = "\n".join(["set -eu", *changes, 'exec "$0/repo/scripts/setup.sh"'])
    return subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script, str(place)],
        env={"PATH": os.environ["PATH"], "HOME": str(place), "TOKENLABS_CACHE": str(place / "cache"), **env},
        capture_output=True,
        text=True,
    )


def hide(place: Path, text: str, path: str) -> str:
    """A shell line that puts a file with `text` over `path`."""
    stand_in = place / path.replace("/", "_")
    stand_in.write_text(text)
    return f"mount --bind {stand_in} {path}"


def refused(place: Path, done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"setup: {sentence}\n"
    assert not (place / "cache").exists()
    assert not (place / "repo/.venv").exists()


def test_another_distribution(place: Path) -> None:
    done = machine(place, hide(place, "ID=fedora\nVERSION_ID=41\n", "/etc/os-release"))
    refused(place, done, "the lab needs Debian or Ubuntu; this system calls itself 'fedora'.")


def test_another_system(place: Path) -> None:
    (place / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (place / "uname").chmod(0o755)
    done = machine(place, PATH=f"{place}:{os.environ['PATH']}")
    refused(place, done, "the lab needs Linux; this is Darwin.")


def test_no_root(place: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", place / "repo/scripts/setup.sh"],
        env={"PATH": os.environ["PATH"], "HOME": str(place), "TOKENLABS_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
    )
    refused(place, done, "the lab needs root for namespaces, mounts and packages; run this with sudo -E.")


def test_an_old_python(place: Path) -> None:
    fake = place / "fake"
    fake.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (fake / name).write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.12 && exit\nexit 1\n')
        (fake / name).chmod(0o755)
    done = machine(place, PATH=f"{fake}:{os.environ['PATH']}")
    refused(place, done, "Python 3.11 or newer is needed; this machine has Python 3.10.12.")


def test_too_little_memory(place: Path) -> None:
    done = machine(place, hide(place, "MemTotal: 8000000 kB\nMemAvailable:    4000000 kB\n", "/proc/meminfo"))
    refused(place, done, "6 GiB of available memory are needed; there are 3 GiB.")


def test_too_little_disk_for_the_cache(place: Path) -> None:
    (place / "small").mkdir()
    done = machine(place, f"mount -t tmpfs -o size=64m tmpfs {place}/small", TOKENLABS_CACHE=f"{place}/small/cache")
    refused(
        place,
        done,
        f"the first build needs 14 GiB of free disk at {place}/small/cache; there are 0 GiB "
        "(TOKENLABS_CACHE and GOCACHE name other places).",
    )


def test_no_way_to_a_package_that_is_missing(place: Path) -> None:
    for directory in ("upper", "work"):
        (place / directory).mkdir()
    overlay = f"lowerdir=/usr/bin,upperdir={place}/upper,workdir={place}/work"
    done = machine(place, f"mount -t overlay overlay -o {overlay} /usr/bin", "rm -f /usr/bin/shellcheck")
    assert done.returncode == 1
    assert done.stderr == (
        "setup: the package sources of apt cannot be reached, and these packages are missing: shellcheck.\n"
    )
    assert not Path("/usr/sbin/policy-rc.d").exists()
    assert not (place / "repo/.venv").exists()


def test_no_way_to_python_packages(place: Path) -> None:
    done = machine(place, PIP_RETRIES="0", PIP_NO_INDEX="0")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: the Python packages of requirements-dev.txt cannot be had: ERROR")
    assert len(done.stderr.splitlines()) == 1
    assert not (place / "repo/.venv").exists()
