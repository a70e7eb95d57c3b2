# SPDX-License-Identifier: GPL-3.0-or-later
"""The role tenants, run by ansible-playbook as an operator runs it."""

from __future__ import annotations

import base64
import re
import stat
from pathlib import Path

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
