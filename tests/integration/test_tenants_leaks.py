# SPDX-License-Identifier: GPL-3.0-or-later
"""No key is seen anywhere but in its file and in its Secret: the role, run with everything switched on that tells.

The same eyes then look at a play that leaks in every one of these places, and must find each.
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.apiserver import ApiServer
from tests.integration.leaks import Watch, encoded, files, leaks, needles
from tests.integration.tenants_operator import Operator

PREFIX = "tlabs_sk_"
CHATTY = ("-vvvv", "--diff")


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


@given(st.binary(max_size=20), st.binary(max_size=20), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_a_key_is_found_at_any_offset(before: bytes, after: bytes, encode: Any) -> None:
    key = new_key()
    places = {
        "plain": before + key.encode() + after,
        "encoded": encode(before + key.encode() + after),
        "twice": base64.b64encode(before + base64.b64encode(key.encode()) + after),
        "only the end": base64.b64encode(before + key[-20:].encode() + after),
        "wrapped": base64.encodebytes(before + key.encode() * 1 + after),
        "another key": encode(before + new_key().encode() + after),
    }
    twice = {again for needle in needles(key, PREFIX) for again in encoded(needle)}
    assert leaks(places, needles(key, PREFIX) | twice) == set(places) - {"another key"}


class Observatory:
    """Runs plays of an operator, and keeps everything that could give a key away."""

    def __init__(self, operator: Operator):
        self.operator = operator
        self.temporary = operator.directory / "temporary"
        self.temporary.mkdir()
        self.facts = operator.directory / "facts"
        self.environment = {
            "ANSIBLE_DEBUG": "1",
            "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.facts),
            # Modules are written to the remote_tmp, and stay there.
            "ANSIBLE_PIPELINING": "0",
            "ANSIBLE_KEEP_REMOTE_FILES": "1",
            "ANSIBLE_REMOTE_TMP": str(self.temporary / "remote"),
            "ANSIBLE_LOCAL_TEMP": str(self.temporary / "local"),
            "TMPDIR": str(self.temporary),
        }
        self.begin = time.time()
        self.audit = operator.api.mark()
        self.places: dict[str, bytes] = {}
        self.hears_syslog = False

    def run(
        self, name: str, variables: dict[str, Any], rc: int = 0, play: str = "play.json", callback: str = "default"
    ) -> None:
        environment = {**self.environment, "ANSIBLE_STDOUT_CALLBACK": callback}
        with Watch(self.temporary) as watch:
            done = self.operator.start(variables, CHATTY, environment, play)
        assert done.returncode == rc, done.stdout[-3000:] + done.stderr[-3000:]
        self.hears_syslog = watch.hears_syslog
        self.places |= {f"{name}: {place}": data for place, data in watch.places().items()}
        self.places[f"{name}: output"] = (done.stdout + done.stderr).encode()

    def all_places(self) -> dict[str, bytes]:
        """With what is there after the runs."""
        api = self.operator.api
        api.mark()
        found = {**self.places, "log file": self.operator.log.read_bytes()}
        found |= {f"fact cache {path}": data for path, data in files(self.facts).items()}
        for item in api.raw("GET", self.operator.path)["items"]:
            found[f"metadata of Secret {item['metadata']['name']}"] = json.dumps(item["metadata"]).encode()
        events = self.operator.path.replace("/secrets", "/events")
        found["events"] = json.dumps(api.raw("GET", events)).encode()
        found["audit log"] = api.audit_log.read_bytes()[self.audit :]
        for path in Path("/tmp").iterdir():
            if path.is_file() and path.stat().st_mtime >= self.begin:
                found[f"temporary file {path}"] = path.read_bytes()
        return found


@pytest.fixture
def operator(api: ApiServer, namespace: str, tmp_path: Path) -> Operator:
    return Operator(api, namespace, tmp_path)


@pytest.fixture
def observatory(operator: Operator) -> Observatory:
    return Observatory(operator)


def test_a_run_gives_no_key_away(operator: Operator, observatory: Observatory) -> None:
    imported, adopted = new_key(), new_key()
    keys = {imported, adopted}
    by_hand = {"name": "tenant-hooli", "labels": {"app": "token-labs"}, "annotations": {"kuadrant.io/groups": "free"}}
    data = {"api_key": base64.b64encode(adopted.encode()).decode()}
    operator.api.raw("POST", operator.path, {"metadata": by_hand, "data": data})
    file = operator.directory / "imported.key"
    file.touch(0o600)
    file.write_text(imported)

    def step(name: str, *tenants: dict[str, Any], **more: Any) -> None:
        observatory.run(name, {"tokenlabs_tenants": list(tenants), "tokenlabs_adopt": True}, **more)
        keys.update(path.read_text() for path in operator.keys.glob("*.key*"))

    acme = {"name": "acme", "tier": "free", "keys": [{"name": "default"}, {"name": "ci"}]}
    initech = {"name": "initech", "tier": "pro", "keys": [{"name": "default", "key_file": str(file)}]}
    hooli = {"name": "hooli", "tier": "free"}
    step("new", acme, initech, hooli)
    assert len(keys) == 4
    rotated = {**acme, "tier": "pro", "rotate": 2}
    step("changed", rotated, {**initech, "state": "suspended"}, hooli, callback="ansible.posix.json")
    assert len(keys) == 6
    # Errors quote what they are about.
    (operator.keys / "acme.key").write_text(wrong := f"{secrets.token_urlsafe(32)} is no key")
    keys.add(wrong.partition(" ")[0])
    (operator.keys / "hooli.key").write_text(other := new_key())
    keys.add(other)
    step("failed", acme, initech, hooli, rc=2)

    found = observatory.all_places()
    assert leaks(found, {needle for key in keys for needle in needles(key, PREFIX)}) == set()
    # It was looked where there is something to see.
    assert b"acme" in found["new: output"] and b"AnsiballZ_tenants" in found["new: process list"]
    assert any("AnsiballZ_tenants" in place for place in found)
    assert b"/secrets" in found["audit log"] and b"acme" in found["log file"]
    assert not observatory.hears_syslog or b"tenants" in found["new: syslog"]


def test_a_leak_is_found_wherever_it_is(operator: Operator, observatory: Observatory) -> None:
    key = new_key()
    hidden = {number: base64.b64encode(b"x" * number + key.encode()).decode() for number in range(3)}
    metadata = {"name": "leak", "annotations": {"last-applied": hidden[2]}}
    secret = {"metadata": metadata, "data": {"api_key": hidden[0]}}
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.debug": {"msg": hidden[1]}},
        {"ansible.builtin.set_fact": {"leak": hidden[2], "cacheable": True}},
        {"ansible.builtin.command": {"argv": [sys.executable, "-c", "import time; time.sleep(1)", hidden[1]]}},
        {"ansible.builtin.copy": {"content": key, "dest": str(observatory.temporary / "leak"), "mode": "0600"}},
    ]
    (operator.directory / "leak.json").write_text(
        json.dumps([{**json.loads((operator.directory / "play.json").read_text())[0], "roles": [], "tasks": tasks}])
    )
    operator.api.raw("POST", operator.path, secret)
    observatory.run("leak", {}, play="leak.json")
    operator.api.raw("GET", f"{operator.path}?fieldSelector=metadata.name={key}")

    found = leaks(observatory.all_places(), needles(key, PREFIX))
    expected = {"leak: output", "leak: process list", "log file", "audit log", "metadata of Secret leak"}
    expected.add(f"leak: temporary file {observatory.temporary / 'leak'}")
    if observatory.hears_syslog:
        expected.add("leak: syslog")
    assert expected <= found
    assert any(place.startswith("fact cache") for place in found)
    assert any("AnsiballZ_command" in place or "remote" in place for place in found)
