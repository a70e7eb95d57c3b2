# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that have no controller to work on, through the playbooks: one line says why, and nothing else happens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
INVENTORY = """
controllers: {hosts: {c1: {ansible_host: 192.0.2.1}, c2: {ansible_host: 192.0.2.2}, c3: {ansible_host: 192.0.2.3}}}
sparks: {hosts: {s1: {ansible_host: 192.0.2.4}}}
all:
  vars:
    # Nobody is there, and that is found out at once.
    ansible_ssh_common_args: -o ProxyCommand=false
    tokenlabs_tenants: []
    tokenlabs_tiers: {free: {requests: {1h: 10}, tokens: {1m: 1}}}
    tokenlabs_loadbalancer_range: 192.0.2.200-192.0.2.210
"""
MODEL = "tokenlabs_models: [{name: m, model: a/b, image: 'x/y:v1'}]"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yml").write_text(INVENTORY)
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars/s1.yml").write_text(MODEL)
    return tmp_path / "hosts.yml"


def play(inventory: Path, playbook: str, *arguments: str) -> tuple[int, str]:
    command = [PLAYBOOK, "-i", inventory, f"playbooks/{playbook}.yml", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=180, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("playbook", ["cluster", "gateway"])
def test_a_limit_without_controllers_says_what_to_write(inventory: Path, playbook: str) -> None:
    code, text = play(inventory, playbook, "--limit", "s1")
    assert code == 2, text
    assert "No controller is in this run, so nothing was joined or changed" in text
    assert "--limit 'controllers,s1'" in text.replace("''", "'")
    assert "UNREACHABLE" not in text
    assert "WARNING" not in text


def test_controllers_that_cannot_be_reached_are_named(inventory: Path) -> None:
    code, text = play(inventory, "cluster")
    assert code == 4, text
    assert "No controller can be reached, so nothing was joined or changed." in text
    assert all(f"[{name}]: UNREACHABLE" in text for name in ("c1", "c2", "c3"))
    # The Spark is not even asked.
    assert "[s1]: UNREACHABLE" not in text


def test_no_second_cluster_is_made_while_a_controller_cannot_be_asked(inventory: Path) -> None:
    here = f"{{ansible_connection: local, ansible_become: false, ansible_python_interpreter: {sys.executable}}}"
    (inventory.parent / "host_vars/c2.yml").write_text(here)
    code, text = play(inventory, "cluster", "--limit", "c2,c3,s1")
    words = " ".join(text.split())
    assert code != 0, text
    assert "Nothing was changed: c1, c3 cannot be asked whether there is a cluster, and c2 is in none." in words
    assert "Build the cluster" not in text
