# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml on a cluster that somebody else runs: no host is touched, only an API is spoken to."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml

from tests.scenarios.cluster import hosts
from tests.scenarios.conftest import REPO, Run, kubectl, playbook, run
from tests.scenarios.evidence import commands, state, writes
from tests.scenarios.keyless import CHAT, address, ask

pytestmark = pytest.mark.long

# Whose kubeconfig `lab/ctl exec` hands out.
USER = "lab-operator"


@pytest.fixture(scope="module")
def inventory() -> Path:
    """The shipped example, with the lab for an internet; its cluster has been built by somebody else."""
    built = playbook("cluster")
    assert built.code == 0, built.text[-4000:]
    folder = state() / "existing"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(REPO / "inventories" / "existing", folder)
    lab = yaml.safe_load((REPO / "inventories" / "lab" / "group_vars" / "all" / "main.yml").read_text())
    mine = {
        "tokenlabs_mirrors": lab["tokenlabs_mirrors"],
        "tokenlabs_checksums": json.loads((state() / "checksums.json").read_text()),
        "tokenlabs_tools_dir": str(folder / "tools"),
        "tokenlabs_state_dir": str(folder / "state"),
        "tokenlabs_keys_dir": str(folder / "credentials"),
        # The tests are root already.
        "ansible_become": False,
    }
    (folder / "group_vars" / "all" / "lab.yml").write_text(yaml.safe_dump(mine))
    return folder


def site(inventory: Path, name: str = "site", *arguments: str) -> Run:
    return run("ansible-playbook", "-i", inventory, f"playbooks/{name}.yml", *arguments, timeout=1800)


def test_the_platform_is_built_without_a_host(inventory: Path) -> None:
    begun = time.time()
    result = site(inventory)
    assert result.code == 0, result.text[-6000:]
    assert "on a cluster that somebody else runs; no host is touched" in result.text
    assert re.search(r"Kubernetes v1\.\d+\.\d+, \d nodes", result.text)
    assert [str(each) for each in commands(begun)] == [], "a host was asked something"
    key = (inventory / "credentials" / "demo-pro.key").read_text().strip()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    assert ask(address(), "POST", "/v1/chat/completions", headers, CHAT) == 200
    assert ask(address(), "POST", "/v1/chat/completions", {"Content-Type": "application/json"}, CHAT) == 401


def test_the_second_run_changes_nothing(inventory: Path) -> None:
    begun = time.time()
    result = site(inventory)
    assert result.code == 0, result.text[-6000:]
    changes = re.findall(r"^(\S+) .*changed=(\d+)", result.text, re.MULTILINE)
    assert changes and all(count == "0" for _, count in changes), result.text[-4000:]
    assert writes(begun, USER) == []
    assert commands(begun) == []


def test_its_status_is_told_without_a_host(inventory: Path) -> None:
    """Run by whoever has the kubeconfig alone."""
    begun = time.time()
    result = site(inventory, "status")
    assert result.code == 0, result.text[-6000:]
    lines = [line.strip() for line in result.text.splitlines()]
    assert "All is well." in lines, result.text
    assert "on a cluster that somebody else runs" in result.text
    assert writes(begun, USER) == [] and commands(begun) == []
    kubectl("cordon", "spark-01")
    try:
        assert "node spark-01 is cordoned and takes no pods" in site(inventory, "status").text
    finally:
        kubectl("uncordon", "spark-01")


def test_nodes_stay_alone(inventory: Path) -> None:
    """What works on MicroK8s itself refuses to."""
    for arguments in (("upgrade",), ("remove_node", "-e", "node=spark-02", "-e", "confirm=spark-02")):
        result = site(inventory, *arguments)
        assert result.code == 2 and "in the hands of whoever runs them" in " ".join(result.text.split())
    names = kubectl("get", "nodes", "-o", "name")
    assert all(f"node/{name}" in names for name in hosts())


def test_a_node_that_does_not_exist_is_named(inventory: Path) -> None:
    file = inventory / "hosts.yml"
    before = file.read_text()
    try:
        file.write_text(before.replace("spark-02:", "spark-02:\n    spark-09:"))
        begun = time.time()
        result = site(inventory, "preflight")
        assert result.code == 2 and "node spark-09" in result.text and "not in the cluster" in result.text
        assert writes(begun, USER) == []
    finally:
        file.write_text(before)


def test_it_goes_as_it_came(inventory: Path) -> None:
    result = site(inventory, "teardown", "-e", "confirm=teardown")
    assert result.code == 0, result.text[-4000:]
    assert "token-labs" not in kubectl("get", "namespaces", "-o", "name")
    assert os.path.isdir(inventory / "tools")
