# SPDX-License-Identifier: GPL-3.0-or-later
"""A wrong inventory, through the playbook: everything is told at once, nothing is done, no secret is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
PASSWORD = "changeme"

FILES = {
    "hosts.yml": """
controllers: {hosts: {controller: {ansible_host: 192.0.2.10}}}
sparks: {hosts: {spark-01: {ansible_host: 192.0.2.11}, Spark_02: {ansible_host: 192.0.2.11}}}
""",
    "group_vars/all/platform.yml": f"""
tokenlabs_release: "2019.01"
tokenlabs_redis_password: {PASSWORD}
tokenlabs_tenant: []
tokenlabs_loadbalancer_range: 192.0.2.200-192.0.2.100
""",
    "group_vars/all/tenants.yml": """
tokenlabs_tenants:
  - {name: acme, tier: gold}
  - {name: acme, tier: free}
  - {name: "Not Valid", tier: free}
""",
    "group_vars/all/tiers.yml": """
tokenlabs_tiers:
  free: {requests: {1d: 10}, tokens: {1m: 0}, models: [nobody-serves]}
""",
    "host_vars/spark-01.yml": """
tokenlabs_models:
  - {name: m, model: a/b, image: "x/y:latest", args: --foo}
""",
    "host_vars/Spark_02.yml": """
tokenlabs_models:
  - {name: m, model: a/c, image: "x/y:v1"}
""",
}

# Where each mistake is, and what it is about.
MISTAKES = [
    ("group_vars/all/platform.yml:2", "tokenlabs_release", "does not exist"),
    ("group_vars/all/platform.yml:3", "tokenlabs_redis_password", "placeholder"),
    ("group_vars/all/platform.yml:4", "tokenlabs_tenant", "did you mean tokenlabs_tenants?"),
    ("group_vars/all/platform.yml:5", "tokenlabs_loadbalancer_range", "ends before it begins"),
    ("group_vars/all/tenants.yml:3", "tokenlabs_tenants[0].tier", "gold"),
    ("group_vars/all/tenants.yml:4", "tokenlabs_tenants[1].name", "acme"),
    ("group_vars/all/tenants.yml:5", "tokenlabs_tenants[2].name", "Not Valid"),
    ("group_vars/all/tiers.yml:3", "tokenlabs_tiers.free.models[0]", "served by no Spark"),
    ("group_vars/all/tiers.yml:3", "tokenlabs_tiers.free.requests.1d", "24h"),
    ("group_vars/all/tiers.yml:3", "tokenlabs_tiers.free.tokens.1m", "1 or more"),
    ("host_vars/Spark_02.yml:3", "tokenlabs_models[0]", "one model has one definition"),
    ("host_vars/spark-01.yml:3", "tokenlabs_models[0].args", "must be a list"),
    ("host_vars/spark-01.yml:3", "tokenlabs_models[0].image", "latest"),
    ("hosts.yml:3", "Spark_02", "lower-case"),
    ("hosts.yml:3", "192.0.2.11", "the address of spark-01"),
]


# Wrong ideas of a cluster, in place of some of the files above.
CLUSTER = {
    "hosts.yml": """
controllers: {hosts: {controller: {ansible_host: 192.0.2.10}, spark-03: }}
sparks:
  hosts:
    spark-01: {ansible_host: 192.0.2.11}
    SPARK-02: {ansible_host: 192.0.2.11}
    spark-03: {ansible_host: 10.1.0.13}
""",
    "group_vars/all/platform.yml": """
tokenlabs_microk8s_channel: 1.99/stable
tokenlabs_namespace: kube-system
""",
    "group_vars/all/tenants.yml": "tokenlabs_tenants: []",
    "group_vars/all/tiers.yml": "tokenlabs_tiers: {free: {requests: {1h: 10}, tokens: {1m: 1}}}",
    "host_vars/spark-01.yml": """
tokenlabs_models: [{name: m, model: a/b, image: "x/y:v1", gpus: 2}]
tokenlabs_node_labels: {toplogy.kubernetes.io/zone: a}
tokenlabs_node_taints: [{key: a, effect: Never}]
tokenlabs_arch: x86
tokenlabs_cluster_address: spark-01.lan
""",
    "host_vars/Spark_02.yml": "{}",
}
CLUSTER_MISTAKES = [
    ("group_vars/all/platform.yml:2", "tokenlabs_microk8s_channel", "Kubernetes 1.32 to 1.35"),
    ("group_vars/all/platform.yml:3", "tokenlabs_namespace", "belongs to another part"),
    ("host_vars/spark-01.yml:2", "tokenlabs_models", "needs 2 GPU slots, spark-01 has 1"),
    ("host_vars/spark-01.yml:3", "toplogy.kubernetes.io/zone", "did you mean topology.kubernetes.io/zone?"),
    ("host_vars/spark-01.yml:4", "tokenlabs_node_taints[0].effect", "NoSchedule"),
    ("host_vars/spark-01.yml:5", "tokenlabs_arch", "amd64, arm64"),
    ("host_vars/spark-01.yml:6", "tokenlabs_cluster_address", "not an IPv4 address"),
    ("", "controllers", "has 2 hosts: a majority must be up"),
    ("hosts.yml:2", "spark-03", "is in both groups"),
    ("hosts.yml:6", "SPARK-02", "write spark-02"),
    ("hosts.yml:6", "192.0.2.11", "logs in to spark-01 too"),
    ("hosts.yml:7", "10.1.0.13", "within 10.1.0.0/16, which MicroK8s gives to pods"),
]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def wrong_inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("inventory"), FILES)


def run(inventory: Path, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PLAYBOOK, "-i", inventory, f"playbooks/{playbook}.yml", *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module", params=["site", "preflight", "tenants"])
def refusal(request: pytest.FixtureRequest, wrong_inventory: Path) -> str:
    result = run(wrong_inventory, request.param, "-vvv", "--diff")
    assert result.returncode != 0
    return result.stdout + result.stderr


@pytest.mark.parametrize("where,what,why", MISTAKES, ids=[f"{where} {what}" for where, what, _ in MISTAKES])
def test_every_mistake_is_told_with_its_place(refusal: str, where: str, what: str, why: str) -> None:
    assert any(line.strip().startswith(f"{where}: ") and what in line and why in line for line in refusal.splitlines())


def test_nothing_was_done(refusal: str) -> None:
    assert f"{len(MISTAKES)} mistakes; nothing was changed" in refusal
    assert "Traceback" not in refusal
    # 192.0.2.0/24 answers nobody: any attempt to reach a host would say so.
    assert "UNREACHABLE" not in refusal
    assert PASSWORD not in refusal


def test_wrong_ideas_of_a_cluster_are_one_line_each(tmp_path: Path) -> None:
    result = run(write(tmp_path, {**FILES, **CLUSTER}), "cluster")
    told = result.stdout + result.stderr
    assert result.returncode != 0
    lines = {line.strip() for line in told.splitlines() if "; " in line and ": " in line}
    for where, what, why in CLUSTER_MISTAKES:
        hits = [line for line in lines if line.startswith(where) and what in line and why in line]
        assert len(hits) == 1, (where, what, why, told)
    assert f"{len(CLUSTER_MISTAKES)} mistakes; nothing was changed" in told
    assert "UNREACHABLE" not in told


@pytest.mark.parametrize("playbook", ["site", "preflight"])
def test_no_controller_is_a_mistake_of_its_own(tmp_path: Path, playbook: str) -> None:
    (tmp_path / "hosts.yml").write_text("sparks: {hosts: {spark-01: {ansible_host: 192.0.2.11}}}\n")
    result = run(tmp_path, playbook)
    assert result.returncode != 0
    assert "The inventory has no host in the group controllers" in result.stdout + result.stderr
    assert "UNREACHABLE" not in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
