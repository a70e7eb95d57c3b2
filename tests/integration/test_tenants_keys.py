# SPDX-License-Identifier: GPL-3.0-or-later
"""Several keys of a tenant against a real API server: from every situation to every other, and two runs at once."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.modules import tenants_info

from tests.integration.apiserver import ApiServer
from tests.integration.conftest import RunModule
from tests.integration.tenants_site import Body, Site, done, tenant

REPO = Path(__file__).resolve().parents[2]
BOTH = [{"name": "default"}, {"name": "ci"}]


@pytest.fixture
def site(api: ApiServer, run: RunModule, namespace: str, tmp_path: Path) -> Site:
    return Site(api, run, namespace, tmp_path)


def acme(**more: Any) -> Body:
    return {**tenant(), **more}


def live(site: Site) -> dict[str, str]:
    """The keys that an AuthPolicy selects, with what they are called."""
    found = {}
    for item in site.secrets():
        labels = item["metadata"]["labels"]
        if labels.get("app") == "token-labs" and labels.get("tokenlabs.io/state") == "active":
            found[base64.b64decode(item["data"]["api_key"]).decode()] = labels["tokenlabs.io/key"]
    return found


def on_disk(site: Site) -> set[str]:
    return {path.read_text() for path in site.keys.glob("*.key*")}


def annotate(site: Site, item: Body, **annotations: str) -> None:
    """As if time had gone by since."""
    body = {
        "metadata": {"annotations": {f"tokenlabs.io/{name.replace('_', '-')}": v for name, v in annotations.items()}}
    }
    site.api.raw("PATCH", f"{site.path}/{item['metadata']['name']}", body, "application/merge-patch+json")


# What is wanted, and the names of the keys that are let in then when the tenant is new.
SITUATIONS: dict[str, tuple[Body, list[str]]] = {
    "one key": (acme(), ["default"]),
    "two keys": (acme(keys=BOTH), ["ci", "default"]),
    "one suspended": (acme(keys=[BOTH[0], {"name": "ci", "state": "suspended"}]), ["default"]),
    "one revoked": (acme(keys=[BOTH[0], {"name": "ci", "state": "absent"}]), ["default"]),
    "expired": (acme(expires="2020-01-01"), []),
    "to expire, told of": (acme(expires="2099-01-01", contact="a@b.example", metadata={"n": "1"}), ["default"]),
    "second generation": (acme(rotate=2, tier="pro"), ["default"]),
    "absent": ({"name": "acme", "state": "absent"}, []),
}


@pytest.mark.parametrize("start", list(SITUATIONS)[:-1])
@pytest.mark.parametrize("end", SITUATIONS)
def test_every_transition_of_keys(site: Site, start: str, end: str) -> None:
    before, _names = SITUATIONS[start]
    after, names = SITUATIONS[end]
    site.run(before)
    known = live(site)
    forecast = site.run(after, check=True, diff=True)
    result = site.run(after, diff=True)
    assert not result.get("failed")

    def told(answer: Body) -> str:
        # To the second, the end of a grace depends on when it is asked for.
        return re.sub(r"until [0-9TZ:-]+", "until", json.dumps(answer["diff"]))

    assert done(forecast) == done(result) and told(forecast) == told(result)
    assert set(live(site)) <= on_disk(site)
    opened = sorted(set(live(site).values()))
    if end in ("one key", "to expire, told of", "second generation"):
        # Keys that nobody mentions are left alone.
        names = sorted({*names, *known.values()})
    assert opened == names
    if end == "second generation" and start not in ("expired", end):
        # The old one is let in beside the new one.
        assert set(known) < set(live(site))
    elif end not in ("absent", "expired", "one revoked", "one suspended"):
        assert set(known) <= set(live(site))
    since = site.api.mark()
    again = site.run(after)
    assert again["changed"] is False and site.api.writes(since) == []


def test_a_rotation_from_begin_to_end(site: Site) -> None:
    site.run(acme())
    old = site.key("acme")
    since = site.api.mark()
    result = site.run(acme(rotate=2), grace="1h")
    assert done(result) == {"rotated": ["acme"]} and set(result["key_files"]) == {"acme"}
    assert [write.split()[0] for write in site.api.writes(since)] == ["create", "patch"]
    assert set(live(site)) == {old, site.key("acme")} == on_disk(site)
    [retired] = [item for item in site.secrets() if "tokenlabs.io/retire-at" in item["metadata"]["annotations"]]
    assert base64.b64decode(retired["data"]["api_key"]).decode() == old
    annotate(site, retired, retire_at="2020-01-01T00:00:00Z")
    forecast = site.run(acme(rotate=2), check=True)
    assert done(forecast) == {"revoked": ["acme"]}
    since = site.api.mark()
    assert done(site.run(acme(rotate=2))) == {"revoked": ["acme"]}
    assert [write.split()[0] for write in site.api.writes(since)] == ["delete"]
    assert set(live(site)) == {site.key("acme")} == on_disk(site)


def test_what_is_older_than_a_moment_is_replaced(site: Site) -> None:
    site.run(acme(keys=BOTH))
    for item in site.secrets():
        annotate(site, item, created_at="2020-01-01T00:00:00Z")
    site.run(acme(keys=BOTH))
    old = set(live(site))
    moment = time.strftime("%Y-%m-%d", time.gmtime())
    assert done(site.run(acme(keys=BOTH), rotate_before=moment, grace="0")) == {"rotated": ["acme"]}
    assert set(live(site)).isdisjoint(old) and len(live(site)) == 2
    assert site.run(acme(keys=BOTH), rotate_before=moment, grace="0")["changed"] is False
    for wrong, text in (
        ({"rotate_before": "now"}, "'now' is not a date"),
        ({"grace": "soon"}, "'soon' is not a number"),
    ):
        assert text in site.run(acme(), **wrong)["msg"]


def test_an_imported_key(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "imported"
    file.touch(mode=0o600)
    file.write_text(key := "tlabs_sk_" + "0123456789abcdef" * 3)
    wanted = acme(keys=[{"name": "default", "key_file": str(file)}])
    result = site.run(wanted, diff=True)
    assert key not in result.output and base64.b64encode(key.encode()).decode() not in result.output
    assert live(site) == {key: "default"} and result["key_files"] == {}
    file.unlink()
    assert site.run(wanted)["changed"] is False


@pytest.mark.parametrize("tier", ["pro", "free"])
def test_a_tenant_made_by_hand_keeps_its_key(site: Site, tier: str) -> None:
    key = "tlabs_sk_" + "0123456789abcdef" * 3
    labels = {"authorino.kuadrant.io/managed-by": "authorino", "app": "token-labs"}
    # As kubectl apply writes down what it was given.
    annotations = {
        "kuadrant.io/groups": "pro",
        "secret.kuadrant.io/user-id": "acme",
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"stringData": {"api_key": key}}),
    }
    metadata = {"name": "tenant-acme", "labels": labels, "annotations": annotations}
    site.api.raw("POST", site.path, {"metadata": metadata, "stringData": {"api_key": key}})
    wanted = acme(tier=tier)
    assert "adopt it, or delete it" in site.run(wanted)["msg"]
    assert done(site.run(wanted, adopt=True, check=True)) == {"adopted": ["acme"]}
    since = site.api.mark()
    assert done(site.run(wanted, adopt=True)) == {"adopted": ["acme"]}
    assert [write.split()[0] for write in site.api.writes(since)] == ["create", "delete"]
    item = site.only()
    assert live(site) == {key: "default"} and key not in json.dumps(item["metadata"])
    assert item["metadata"]["annotations"]["kuadrant.io/groups"] == tier and site.key("acme") == key
    assert site.run(wanted)["changed"] is False


def start(site: Site, wanted: list[Body], program: str = "", **more: Any) -> subprocess.Popen[bytes]:
    """The module in a process of its own, with something put in front."""
    code = f"""
import json, os, signal, sys, time
from ansible.module_utils.testing import patch_module_args
from ansible_collections.tokenlabs.platform.plugins.module_utils import _keyfiles, _kube
from ansible_collections.tokenlabs.platform.plugins.modules import tenants
{program}
with patch_module_args(json.load(sys.stdin)):
    tenants.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["collections", "."])},
        cwd=REPO,
    )
    assert process.stdin
    process.stdin.write(json.dumps(site.arguments(wanted, **more)).encode())
    process.stdin.close()
    return process


def answer(process: subprocess.Popen[bytes]) -> Body:
    assert process.stdout and process.stderr
    output = process.stdout.read().decode()
    assert output, process.stderr.read().decode()
    process.wait(60)
    return json.loads(output.strip().splitlines()[-1])


def test_two_runs_at_once(site: Site) -> None:
    """They work one after the other: the second finds everything done."""
    many = [tenant(f"t{number:03}") for number in range(60)]
    first, second = start(site, many), start(site, many)
    results = [answer(first), answer(second)]
    assert sorted(result["counts"]["created"] for result in results) == [0, 60]
    assert len(live(site)) == 60 and set(live(site)) == on_disk(site)


def test_a_run_that_was_killed_leaves_no_lock(site: Site) -> None:
    killed = start(site, [tenant()], "_kube.Kube.create = lambda *a, **b: os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.wait(60) == -signal.SIGKILL
    assert done(site.run(tenant())) == {"created": ["acme"]}


def test_a_run_that_never_ends_is_told_of(site: Site) -> None:
    ready = site.keys.parent / "ready"
    hangs = start(
        site,
        [tenant()],
        f"_kube.Kube.create = lambda *a, **b: (open({str(ready)!r}, 'w').close(), time.sleep(600))",
    )
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert time.monotonic() < deadline and hangs.poll() is None
            time.sleep(0.05)
        # A rehearsal disturbs nobody, and waits for nobody.
        assert not site.run(tenant("other"), check=True).get("failed")
        impatient = "original = _keyfiles.KeyFiles.locked\n"
        impatient += "_keyfiles.KeyFiles.locked = lambda self, patience=1.0: original(self, patience)"
        result = answer(start(site, [tenant("other")], impatient))
        assert result["failed"] and "another run has been at work on" in result["msg"]
        assert site.secrets() == []
    finally:
        hangs.kill()
        hangs.wait()


def test_two_controllers_at_once(site: Site, tmp_path: Path) -> None:
    """Without a common lock, one of them makes the key, and the other one makes none."""
    other = Site(site.api, site.run_module, site.namespace, tmp_path / "other")
    pause = f"""
original = _kube.Kube.list
def slow(*arguments, **more):
    found = original(*arguments, **more)
    open({str(tmp_path)!r} + f"/seen-{{os.getpid()}}", "w").close()
    deadline = time.monotonic() + 30
    while len([name for name in os.listdir({str(tmp_path)!r}) if name.startswith("seen-")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
_kube.Kube.list = slow
"""
    one, two = start(site, [tenant()], pause), start(other, [tenant()], pause)
    results = [answer(one), answer(two)]
    assert sorted(bool(result["created"]) for result in results) == [False, True]
    assert len(live(site)) == 1
    assert set(live(site)) == on_disk(site) | on_disk(other)


def test_the_report(site: Site, run: RunModule) -> None:
    site.run(acme(keys=BOTH, expires="2099-01-01"), tenant("initech", "pro", "suspended"), tenant("late"))
    site.run(acme(keys=BOTH, expires="2099-01-01", rotate=2))
    [late] = [item for item in site.secrets() if item["metadata"]["labels"]["tokenlabs.io/tenant"] == "late"]
    annotate(site, late, expires_at="2020-01-01T00:00:00Z")
    since = site.api.mark()
    result = run(tenants_info, namespace=site.namespace)
    assert site.api.writes(since) == [] and not re.search(r"tlabs_sk_", result.output)
    tenants = {each["name"]: each for each in result["tenants"]}
    assert [(key["name"], key["state"]) for key in tenants["acme"]["keys"]] == [
        ("ci", "active"),
        ("ci", "replaced"),
        ("default", "active"),
        ("default", "replaced"),
    ]
    assert tenants["initech"]["tier"] == "pro" and tenants["initech"]["keys"][0]["state"] == "suspended"
    assert tenants["late"]["keys"][0]["overdue"] is True
    report = "\n".join(result["report"])
    assert report.startswith("TENANT") and "3 tenants: 2 free, 1 pro" in report
    assert "6 keys: 2 active, 1 expired, 2 replaced, 1 suspended" in report
    assert "OVERDUE late/default" in report and "SOON acme/ci (replaced key" in report
    assert run(tenants_info, namespace=site.namespace, soon="never")["failed"]
