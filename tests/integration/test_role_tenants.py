# SPDX-License-Identifier: GPL-3.0-or-later
"""The role tenants, run by ansible-playbook as an operator runs it."""

from __future__ import annotations

import base64
import re
import shutil
import stat
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apiserver import ApiServer
from tests.integration.tenants_operator import Operator

KEY = re.compile(r"tlabs_sk_[A-Za-z0-9_-]{43}")


@pytest.fixture
def operator(api: ApiServer, namespace: str, tmp_path: Path) -> Operator:
    return Operator(api, namespace, tmp_path)


ACME = {"name": "acme", "tier": "free"}
INITECH = {"name": "initech", "tier": "pro", "state": "suspended"}


def test_from_the_inventory_to_the_operators_folder(operator: Operator) -> None:
    forecast = operator.run(ACME, INITECH, options=("--check", "--diff"))
    # Made, and fetched.
    assert forecast["changed"] == 2 and forecast["failed"] == 0
    assert not operator.keys.exists() and not operator.credentials.exists()

    first = operator.run(ACME, INITECH, options=("-vvvv", "--diff"))
    assert f"New keys: 2, in {operator.credentials}" in first["output"]
    fetched = {path.name: path.read_text() for path in operator.credentials.iterdir()}
    assert fetched == {path.name: path.read_text() for path in operator.keys.glob("*.key")}
    assert set(fetched) == {"acme.key", "initech.key"} and all(map(KEY.fullmatch, fetched.values()))
    assert stat.S_IMODE(operator.credentials.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in operator.credentials.iterdir()} == {0o600}

    since = operator.api.mark()
    second = operator.run(ACME, INITECH, options=("--diff",))
    assert second["changed"] == 0 and operator.api.writes(since) == []

    # Handed over and deleted: it does not come back.
    (operator.credentials / "acme.key").unlink()
    assert operator.run(ACME, INITECH)["changed"] == 0
    assert not (operator.credentials / "acme.key").exists()

    third = operator.run({**ACME, "tier": "pro"}, {**INITECH, "state": "present"}, options=("-vvvv", "--diff"))
    assert third["changed"] == 1
    logged = operator.log.read_text() + first["output"] + third["output"]
    assert not KEY.search(logged)
    for key in fetched.values():
        for offset in range(3):
            # Wherever it may stand in something encoded.
            inner = base64.b64encode(b"x" * offset + key.encode()).decode()[4:-8]
            assert inner not in logged


def test_a_run_that_was_killed_before_fetching_is_made_good(operator: Operator) -> None:
    """The keys are made, but nothing is fetched: as if it had ended after the first task."""
    operator.run(ACME, tenants_fetch=False)
    assert not operator.credentials.exists()
    assert operator.run(ACME)["changed"] > 0
    assert (operator.credentials / "acme.key").read_text() == (operator.keys / "acme.key").read_text()
    assert operator.run(ACME)["changed"] == 0


def test_one_tenant_that_fails_does_not_keep_the_others_from_their_keys(operator: Operator) -> None:
    claim = {"metadata": {"name": "theirs", "labels": {"tokenlabs.io/tenant": "acme"}}}
    operator.api.raw("POST", operator.path, claim)
    result = operator.run(ACME, INITECH, rc=2)
    assert "1 of 2 tenants failed" in result["output"] and result["failed"] == 1
    assert [path.name for path in operator.credentials.iterdir()] == ["initech.key"]


def test_wrong_tenants_change_nothing(operator: Operator) -> None:
    result = operator.run({"name": "acme", "tier": "gold"}, {"name": "acme", "tier": "free"}, rc=2)
    assert "tenants[0].tier (acme) is 'gold', which is no tier; known are free, pro" in result["output"]
    assert "tenants[1].name 'acme' is the name of tenants[0] too" in result["output"]
    assert result["changed"] == 0 and not operator.keys.exists() and not operator.credentials.exists()


def test_a_thousand_keys_in_one_fetch(operator: Operator) -> None:
    many = [{"name": f"t{number:04}", "tier": "free"} for number in range(1000)]
    result = operator.run(*many)
    assert "New keys: 1000" in result["output"] and len(list(operator.credentials.iterdir())) == 1000
    assert all(path.read_text() == (operator.keys / path.name).read_text() for path in operator.credentials.iterdir())
    assert operator.run(*many)["changed"] == 0


def test_keys_encrypted_for_somebody(operator: Operator, tmp_path: Path) -> None:
    if not shutil.which("age"):
        pytest.skip("age is not installed (Debian package age)")
    identity = tmp_path / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    recipient = subprocess.run(
        ["age-keygen", "-y", identity], check=True, capture_output=True, text=True
    ).stdout.strip()
    operator.run(ACME, INITECH, tokenlabs_keys_recipient=recipient)
    assert {path.name for path in operator.credentials.iterdir()} == {"acme.key.age", "initech.key.age"}
    for path in operator.credentials.iterdir():
        assert not KEY.search(path.read_text()) and stat.S_IMODE(path.stat().st_mode) == 0o600
        opened = subprocess.run(["age", "-d", "-i", identity, path], check=True, capture_output=True, text=True).stdout
        assert opened == (operator.keys / path.stem).read_text()
    assert operator.run(ACME, INITECH, tokenlabs_keys_recipient=recipient)["changed"] == 0


def test_a_wrong_recipient_is_told_of_before_a_key_is_made(operator: Operator) -> None:
    result = operator.run(ACME, tokenlabs_keys_recipient="age1nonsense", rc=2)
    assert "age cannot encrypt for this recipient" in result["output"] or "age is not installed" in result["output"]
    assert not operator.keys.exists() and not operator.credentials.exists()


def test_tenants_in_files(operator: Operator) -> None:
    (operator.directory / "tenants.csv").write_text("name,tier,keys,rotate\ninitech,pro,default ci,2\n")
    (operator.directory / "tenants.yml").write_text("- {name: hooli, tier: free, expires: 2099-01-31}\n")
    files = {"tokenlabs_tenants_files": ["tenants.csv", "tenants.yml"]}
    operator.run(ACME, **files)
    assert {path.name for path in operator.credentials.iterdir()} == {
        "acme.key",
        "hooli.key",
        "initech.key",
        "initech.ci.key",
    }
    assert operator.run(ACME, **files)["changed"] == 0
    (operator.directory / "tenants.csv").write_text("name;tier\n")
    assert "tenants.csv:1: has other separators than commas" in operator.run(ACME, rc=2, **files)["output"]


def test_the_keys_of_some_are_replaced(operator: Operator) -> None:
    operator.entry_point("rotate")
    operator.run(ACME, INITECH)
    old = {path.name: path.read_text() for path in operator.keys.glob("*.key")}
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def rotate(*names: str, before: str = now, **more: Any) -> dict[str, Any]:
        asked = {"tenants_rotate": list(names), "tenants_rotate_before": before, **more}
        return operator.run(ACME, INITECH, play="rotate.json", **asked)

    assert rotate("acme", before=tomorrow)["changed"] == 0
    time.sleep(max(0.0, 1.1 - (datetime.now(UTC) - datetime.fromisoformat(now)).total_seconds()))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    first = rotate("acme", before=now)
    assert "New keys: 1" in first["output"]
    new = {path.name: path.read_text() for path in operator.keys.glob("*.key")}
    assert new["acme.key"] != old["acme.key"] and new["initech.key"] == old["initech.key"]
    assert (operator.credentials / "acme.key").read_text() == new["acme.key"]
    assert rotate("acme", before=now)["changed"] == 0
    assert "New keys: 1" in rotate("all", before=now, tenants_grace="0", tenants_prune=True)["output"]
    assert {path.name for path in operator.keys.glob("*.old")} == set()
    unknown = operator.run(ACME, play="rotate.json", rc=2, tenants_rotate=["acem"], tenants_rotate_before=now)
    assert "The inventory has no such tenants: acem" in unknown["output"]
    nobody = operator.run(ACME, play="rotate.json", rc=2, tenants_rotate=[], tenants_rotate_before=now)
    assert "Say whose keys to replace" in nobody["output"]


def test_the_report_of_the_role(operator: Operator) -> None:
    operator.entry_point("report")
    operator.run(ACME, INITECH)
    since = operator.api.mark()
    result = operator.run(ACME, INITECH, play="report.json")
    assert result["changed"] == 0 and operator.api.writes(since) == []
    assert "2 tenants: 1 free, 1 pro" in result["output"] and "2 keys: 1 active, 1 suspended" in result["output"]
