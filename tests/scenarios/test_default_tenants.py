# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants on a finished platform, seen by their clients: what the inventory says is so as soon as the run has ended."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scenarios.cluster import CTL, on
from tests.scenarios.conftest import REPO, kubectl, playbook

KEYS = Path(os.environ.get("TOKENLABS_LAB", "/")) / "credentials"
# How long the gateway may take to see what a run has done.
SOON = 2.0
TIERS = yaml.safe_load((REPO / "inventories/lab/group_vars/all/tiers.yml").read_text())["tokenlabs_tiers"]
DEMO = yaml.safe_load((REPO / "inventories/lab/group_vars/all/tenants.yml").read_text())["tokenlabs_tenants"]

BEFORE: list[dict[str, Any]] = [
    {"name": "t-removed", "tier": "free"},
    {"name": "t-suspended", "tier": "free"},
    {"name": "t-expired", "tier": "free"},
    {"name": "t-upgraded", "tier": "free"},
    {"name": "t-rotated", "tier": "enterprise"},
]
AFTER: list[dict[str, Any]] = [
    {"name": "t-removed", "state": "absent"},
    {"name": "t-suspended", "tier": "free", "state": "suspended"},
    {"name": "t-expired", "tier": "free", "expires": "2026-01-01"},
    {"name": "t-upgraded", "tier": "pro"},
    {"name": "t-rotated", "tier": "enterprise", "rotate": 2},
]


def run(tenants: list[dict[str, Any]], tmp_path: Path, **variables: Any) -> None:
    given = tmp_path / "tenants.json"
    given.write_text(json.dumps({"tokenlabs_tenants": [*DEMO, *tenants], **variables}))
    done = playbook("tenants", "-e", f"@{given}")
    assert done.code == 0, done.text


def key(tenant: str) -> str:
    return (KEYS / f"{tenant}.key").read_text()


@pytest.fixture(scope="module")
def address() -> str:
    found = "jsonpath={.status.addresses[0].value}"
    return kubectl("-n", "token-labs", "get", "gateway", "token-labs-gateway", "-o", found)


def call(address: str, with_key: str) -> tuple[int, str]:
    """The status of a call, and the limits that the answer tells of."""
    request = urllib.request.Request(f"http://{address}/v1/models", headers={"Authorization": f"Bearer {with_key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers.get("x-ratelimit-limit", "")
    except urllib.error.HTTPError as error:
        return error.code, ""


def soon(address: str, wanted: dict[str, int], keys: dict[str, str]) -> None:
    """All tenants get their wanted answers before it is too late."""
    end = time.monotonic() + SOON
    while True:
        got = {tenant: call(address, keys[tenant])[0] for tenant in wanted}
        if got == wanted:
            return
        assert time.monotonic() < end, f"wanted {wanted}, got {got}"
        time.sleep(0.2)


class Client(threading.Thread):
    """Calls every 100 ms, with the new key as soon as the operator has it."""

    def __init__(self, address: str, tenant: str):
        super().__init__()
        self._address, self._tenant = address, tenant
        self._end = threading.Event()
        self.answers: dict[str, Counter[int]] = {}

    def run(self) -> None:
        while not self._end.wait(0.1):
            now = key(self._tenant)
            self.answers.setdefault(now, Counter())[call(self._address, now)[0]] += 1

    @property
    def calls(self) -> int:
        return sum(answers.total() for answers in self.answers.values())

    def __enter__(self) -> Client:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        before = self.calls
        deadline = time.monotonic() + 10
        # A few more calls, which are with the new key.
        while self.calls < before + 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        self._end.set()
        self.join()


def test_what_clients_see(address: str, tmp_path: Path) -> None:
    names = [tenant["name"] for tenant in BEFORE]
    run(BEFORE, tmp_path)
    keys = {name: key(name) for name in names}
    soon(address, dict.fromkeys(names, 200), keys)
    assert call(address, keys["t-upgraded"])[1].startswith(f"{TIERS['free']['requests']['1m']},")

    with Client(address, "t-rotated") as client:
        run(AFTER, tmp_path)
        gone = {"t-removed": 401, "t-suspended": 401, "t-expired": 401}
        # The old key is let in during its grace.
        soon(address, {**gone, "t-upgraded": 200, "t-rotated": 200}, keys)

    # The same key, with the limit of the other tier; in the old one it would be used up by now.
    assert key("t-upgraded") == keys["t-upgraded"]
    allowed = TIERS["free"]["requests"]["1m"] + 2
    answers = [call(address, keys["t-upgraded"]) for _ in range(allowed)]
    assert {status for status, _limit in answers} == {200}
    assert answers[0][1].startswith(f"{TIERS['pro']['requests']['1m']},")

    # Old key, then new key, and never a closed door.
    new = key("t-rotated")
    assert list(client.answers) == [keys["t-rotated"], new]
    assert all(set(answers) == {200} for answers in client.answers.values()), client.answers

    run([], tmp_path, tokenlabs_prune=True)
    soon(address, dict.fromkeys(names, 401), keys)
    assert call(address, new)[0] == 401


def test_without_cluster_admin(address: str, tmp_path: Path) -> None:
    """The playbooks as a whole, with a login as docs/operations.md makes it and no other."""
    chapter = (REPO / "docs/operations.md").read_text().split("\n## Tenants without cluster admin\n")[1]
    commands, login = chapter.split("```bash\n")[1].split("```")[0], "/etc/tokenlabs/tenant-operator.config"
    made = subprocess.run(
        [CTL, "ssh", "controller", "sudo", "sh", "-es"], input=commands, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0 and login in chapter, made.stderr
    # Its own kubeconfig, moved away: nothing falls back on it.
    admin = "/var/snap/microk8s/current/credentials/client.config"
    on("controller", f"mv {admin} {admin}.away")
    try:
        run([{"name": "t-operator", "tier": "free"}], tmp_path, tokenlabs_kubeconfig=login)
        first = key("t-operator")
        soon(address, {"t-operator": 200}, {"t-operator": first})
        # That moment has come by the time that keys are looked at.
        before = (datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        asked = ("-e", f"before={before}", "-e", "tenants=t-operator", "-e", "grace=0")
        rotated = playbook("rotate_keys", "-e", f"@{tmp_path}/tenants.json", *asked)
        assert rotated.code == 0, rotated.text
        soon(address, {"t-operator": 200, "old": 401}, {"t-operator": key("t-operator"), "old": first})
        report = playbook("tenants", "-e", f"@{tmp_path}/tenants.json", "--tags", "report")
        assert report.code == 0 and "t-operator" in report.text, report.text
        run([{"name": "t-operator", "state": "absent"}], tmp_path, tokenlabs_kubeconfig=login)
        soon(address, {"t-operator": 401}, {"t-operator": key("t-operator")})
    finally:
        on("controller", f"mv {admin}.away {admin}")
    # More than that it may not do.
    asked = f"microk8s kubectl --kubeconfig {login} auth can-i get secrets -n redis-system"
    assert on("controller", asked, check=False).startswith("no")
