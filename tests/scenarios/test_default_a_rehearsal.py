# SPDX-License-Identifier: GPL-3.0-or-later
"""`--check --diff` on a finished platform, from the installed tarball: nothing to do, nothing done."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.scenarios.conftest import REPO
from tests.scenarios.evidence import mutating_commands, writes


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty collections path with nothing but the collection as it would be published."""
    folder = tmp_path_factory.mktemp("installed")
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(folder)}
    build = ["ansible-galaxy", "collection", "build", "--output-path", str(folder), str(REPO)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = folder.glob("tokenlabs-platform-*.tar.gz")
    install = ["ansible-galaxy", "collection", "install", "--offline", "-p", str(folder), str(archive)]
    subprocess.run(install, check=True, capture_output=True, env=environment)
    return folder


def test_a_rehearsal_finds_and_does_nothing(installed: Path) -> None:
    begin = time.time()
    environment = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"}
    result = subprocess.run(
        ["ansible-playbook", "-i", REPO / "inventories/lab", "tokenlabs.platform.site", "--check", "--diff"],
        cwd=installed,
        env={**environment, "ANSIBLE_COLLECTIONS_PATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    changes = re.findall(r"^(\S+) .*changed=(\d+)", result.stdout, re.MULTILINE)
    assert changes and all(count == "0" for _, count in changes), result.stdout[-4000:]
    assert mutating_commands(begin) == []
    assert writes(begin) == []
