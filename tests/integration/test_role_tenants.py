# SPDX-License-Identifier: GPL-3.0-or-later
"""The role tenants, run by ansible-playbook as an operator runs it."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apiserver import ApiServer

REPO = Path(__file__).resolve().parents[2]
KEY = re.compile(r"tlabs_sk_[A-Za-z0-9_-]{43}")


class Operator:
    """A folder with an inventory of one controller, which is this machine, and ansible-playbook run in it."""

    def __init__(self, api: ApiServer, namespace: str, directory: Path):
        self.api = api
        self.path = f"/api/v1/namespaces/{namespace}/secrets"
        self.directory = directory
        self.credentials = directory / "credentials"
        self.keys = directory / "controller" / "keys"
        play: dict[str, Any] = {
            "hosts": "controllers[0]",
            "gather_facts": False,
            "module_defaults": {"group/tokenlabs.platform.k8s": {"kubeconfig": str(api.kubeconfig)}},
            # As in the playbooks: the controller's interpreter is not there on the operator's machine.
            "vars": {"ansible_python_interpreter": str(self._controllers_python())},
            "roles": [{"role": "tokenlabs.platform.tenants"}],
        }
        (directory / "play.json").write_text(json.dumps([play]))
        variables = {
            "ansible_connection": "local",
            "tenants_namespace": namespace,
            "tenants_key_dir": str(self.keys),
            "tokenlabs_tiers": {"free": {}, "pro": {}},
        }
        hosts = {"all": {"children": {"controllers": {"hosts": {"controller": variables}}}}}
        (directory / "hosts.json").write_text(json.dumps(hosts))
        self.log = directory / "ansible.log"

    def _controllers_python(self) -> Path:
        link = self.directory / "controllers-python"
        link.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        link.chmod(0o755)
        return link

    def run(
        self, *tenants: dict[str, Any], options: tuple[str, ...] = (), rc: int = 0, **variables: Any
    ) -> dict[str, Any]:
        given = {"tokenlabs_tenants": list(tenants), **variables}
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                "-i",
                str(self.directory / "hosts.json"),
                str(self.directory / "play.json"),
                "-e",
                json.dumps(given),
                *options,
            ],
            cwd=self.directory,
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "K8S_"))},
                "ANSIBLE_COLLECTIONS_PATH": str(REPO / "collections"),
                "ANSIBLE_LOG_PATH": str(self.log),
                "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
                "ANSIBLE_NOCOLOR": "1",
                "LC_ALL": "C.UTF-8",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        assert done.returncode == rc, output
        recap = re.search(r"controller +: (.*)", output)
        assert recap, output
        return {"output": output, **{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap[1])}}


@pytest.fixture
def operator(api: ApiServer, namespace: str, tmp_path: Path) -> Operator:
    return Operator(api, namespace, tmp_path)


ACME = {"name": "acme", "tier": "free"}
INITECH = {"name": "initech", "tier": "pro", "state": "suspended"}


def test_from_the_inventory_to_the_operators_folder(operator: Operator) -> None:
    forecast = operator.run(ACME, INITECH, options=("--check", "--diff"))
    assert forecast["changed"] == 1 and forecast["failed"] == 0
    assert not operator.keys.exists() and not operator.credentials.exists()

    first = operator.run(ACME, INITECH, options=("-vvvv", "--diff"))
    assert f"New keys of 2 tenants are in {operator.credentials}" in first["output"]
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
    assert "there is no tier gold; there are free, pro" in result["output"]
    assert "tenant acme is listed more than once" in result["output"]
    assert result["changed"] == 0 and not operator.keys.exists() and not operator.credentials.exists()
