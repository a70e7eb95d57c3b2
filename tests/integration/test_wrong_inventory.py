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


@pytest.fixture(scope="module")
def wrong_inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inventory")
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


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


def test_no_controller_is_a_mistake_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("sparks: {hosts: {spark-01: {ansible_host: 192.0.2.11}}}\n")
    result = run(tmp_path, "site")
    assert result.returncode != 0
    assert "controllers" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
