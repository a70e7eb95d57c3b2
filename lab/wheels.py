# SPDX-License-Identifier: GPL-3.0-or-later
"""Python packages that the mirror serves: exactly what the roles pin, for the hosts' Python."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lab.cache import locked, publish
from lab.paths import REPO, LabError, cache_root, digest

REQUIREMENTS = REPO / "roles" / "kube_tools" / "files" / "requirements.txt"
# What pip on a current glibc system accepts, newest first.
MANYLINUX = ("manylinux_2_35", "manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux_2_17", "manylinux2014")


def normalize(name: str) -> str:
    """A project's name as an index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def project_of(filename: str) -> str | None:
    """The project that a distribution file belongs to."""
    match = re.match(r"(.+?)-\d", filename)
    return normalize(match.group(1)) if match and filename.endswith((".whl", ".tar.gz", ".zip")) else None


def ensure(python: str, say: Callable[[str], None]) -> Path:
    """A directory of wheels for Python ``python`` (as "3.11")."""
    if not REQUIREMENTS.is_file():
        raise LabError(f"{REQUIREMENTS.relative_to(REPO)} is missing: the mirror would have nothing to serve")
    wanted = REQUIREMENTS.read_bytes()
    target = cache_root() / "wheels" / f"py{python}-{digest(wanted, platform.machine())}"
    with locked(target, say):
        if not target.is_dir():
            say(f"wheels: fetching what roles/kube_tools pins, for Python {python}")
            publish(target, lambda partial: _download(partial, python))
    return target


def _download(partial: Path, python: str) -> None:
    partial.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--platform={tag}_{platform.machine()}" for tag in MANYLINUX]
    command += ["--dest", str(partial), "--requirement", str(REQUIREMENTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        tail = " / ".join(done.stderr.strip().splitlines()[-2:])
        raise LabError(f"pip could not fetch the wheels of roles/kube_tools: {tail}")
