# SPDX-License-Identifier: GPL-3.0-or-later
"""The module tenants against a real API server; the audit log counts the requests."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import fingerprint

from tests.integration.apiserver import ApiServer
from tests.integration.conftest import RunModule
from tests.integration.tenants_site import KEY, Site, done, tenant


@pytest.fixture
def site(api: ApiServer, run: RunModule, namespace: str, tmp_path: Path) -> Site:
    return Site(api, run, namespace, tmp_path)


def test_a_tenant_from_nothing(site: Site) -> None:
    forecast = site.run(tenant(), check=True, diff=True)
    assert done(forecast) == {"created": ["acme"]} and forecast["changed"]
    assert not site.keys.exists() and site.secrets() == []
    assert forecast["diff"][0]["after"] == "key default new, tier free, active, generation 1\n"

    since = site.api.mark()
    result = site.run(tenant(), diff=True)
    assert result["changed"]
    assert {name: number for name, number in result["counts"].items() if number} == {"created": 1}
    assert result["key_files"] == {"acme": str(site.keys / "acme.key")}
    assert [event["verb"] for event in site.api.requests(since) if "secrets" in event["requestURI"]] == [
        "list",
        "create",
    ]
    item = site.only()
    key = site.key("acme")
    assert base64.b64decode(item["data"]["api_key"]).decode() == key and KEY.fullmatch(key)
    assert stat.S_IMODE((site.keys / "acme.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(site.keys.stat().st_mode) == 0o700
    metadata = item["metadata"]
    assert re.fullmatch(r"tenant-acme-[0-9a-f]{10}", metadata["name"])
    assert metadata["labels"] == {
        "app": "token-labs",
        "app.kubernetes.io/managed-by": "tokenlabs",
        "authorino.kuadrant.io/managed-by": "authorino",
        "tokenlabs.io/credential": "api-key",
        "tokenlabs.io/key": "default",
        "tokenlabs.io/state": "active",
        "tokenlabs.io/tenant": "acme",
    }
    assert (
        metadata["annotations"]
        == {
            "kuadrant.io/groups": "free",
            "secret.kuadrant.io/user-id": "acme",
            "tokenlabs.io/fingerprint": fingerprint(key),
            "tokenlabs.io/generation": "1",
            "tokenlabs.io/created-at": metadata["creationTimestamp"],
        }
        or metadata["annotations"]["tokenlabs.io/created-at"] < metadata["creationTimestamp"]
    )
    assert [entry["manager"] for entry in metadata["managedFields"]] == ["tokenlabs"]

    since = site.api.mark()
    again = site.run(tenant())
    assert again["changed"] is False and again["counts"]["unchanged"] == 1
    assert site.api.writes(since) == []
    # Not fetched yet, so still offered; afterwards no more.
    assert set(again["key_files"]) == {"acme"}
    for mark in (site.keys / ".pending").iterdir():
        mark.unlink()
    assert site.run(tenant())["key_files"] == {}


STATES = {
    "nothing": None,
    "free": tenant(),
    "pro": tenant(tier="pro"),
    "suspended": tenant(state="suspended"),
    "suspended pro": tenant(tier="pro", state="suspended"),
    "absent": tenant(state="absent"),
}


@pytest.mark.parametrize("start", list(STATES)[:-1])
@pytest.mark.parametrize("end", list(STATES)[1:])
def test_every_transition(site: Site, start: str, end: str) -> None:
    before, after = STATES[start], STATES[end]
    key = None
    if before:
        site.run(before)
        key = site.key("acme")
    forecast = site.run(after or {}, check=True, diff=True)
    since = site.api.mark()
    result = site.run(after or {}, diff=True)
    assert done(forecast) == done(result)
    if key:
        assert [entry["before"] for entry in forecast["diff"]] == [entry["before"] for entry in result["diff"]]
    writes = len(site.api.writes(since))
    assert after is not None
    if after["state"] == "absent":
        assert site.secrets() == [] and not (site.keys / "acme.key").exists()
        assert writes == (1 if before else 0)
    else:
        item = site.only()
        assert item["metadata"]["annotations"]["kuadrant.io/groups"] == after["tier"]
        label = "suspended" if after["state"] == "suspended" else "active"
        assert item["metadata"]["labels"]["tokenlabs.io/state"] == label
        assert base64.b64decode(item["data"]["api_key"]).decode() == site.key("acme")
        assert key in (None, site.key("acme"))
        # A tier change is a new Secret and a deletion; everything else is at most one write.
        changed_tier = before is not None and before["tier"] != after["tier"]
        assert writes == (2 if changed_tier else 0 if before == after else 1)
    since = site.api.mark()
    assert site.run(after)["changed"] is False
    assert site.api.writes(since) == []


def test_killed_between_the_key_file_and_the_request(site: Site) -> None:
    """A process that dies there for good leaves a file; the next run uses that key."""
    program = """
import json, os, signal, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.tokenlabs.platform.plugins.module_utils import _kube
from ansible_collections.tokenlabs.platform.plugins.modules import tenants
_kube.Kube.create = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL)
with patch_module_args(json.load(sys.stdin)):
    tenants.main()
"""
    died = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(site.arguments([tenant()])).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["collections", "."])},
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    key = site.key("acme")
    assert site.secrets() == []
    result = site.run(tenant())
    assert done(result) == {"created": ["acme"]} and set(result["key_files"]) == {"acme"}
    assert site.key("acme") == key
    assert base64.b64decode(site.only()["data"]["api_key"]).decode() == key


def test_a_refused_tenant_leaves_no_file(site: Site) -> None:
    quota = {
        "metadata": {"name": "q"},
        "spec": {"hard": {"count/secrets": "0"}},
        "status": {"hard": {"count/secrets": "0"}},
    }
    site.api.raw("POST", f"/api/v1/namespaces/{site.namespace}/resourcequotas", quota)
    status = {"status": {"hard": {"count/secrets": "0"}, "used": {"count/secrets": "0"}}}
    site.api.raw(
        "PATCH", f"/api/v1/namespaces/{site.namespace}/resourcequotas/q/status", status, "application/merge-patch+json"
    )
    result = site.run(tenant(), tenant("other"))
    assert result["failed"] and result["counts"]["failed"] == 2
    assert [each["name"] for each in result["failed_tenants"]] == ["acme", "other"]
    assert "exceeded quota" in result["msg"]
    assert [entry.name for entry in site.keys.iterdir() if entry.suffix == ".key"] == []


def test_a_namespace_that_is_not_there(site: Site) -> None:
    forecast = site.run(tenant(), check=True)
    site.namespace = "no-such-namespace"
    site.path = "/api/v1/namespaces/default/secrets"
    assert done(site.run(tenant(), check=True)) == done(forecast)
    result = site.run(tenant())
    assert 'namespaces "no-such-namespace" not found' in result["msg"]


def test_a_lost_secret_gets_its_key_back(site: Site) -> None:
    site.run(tenant())
    key = site.key("acme")
    site.api.raw("DELETE", f"{site.path}/{site.only()['metadata']['name']}")
    assert done(site.run(tenant())) == {"created": ["acme"]}
    assert base64.b64decode(site.only()["data"]["api_key"]).decode() == key == site.key("acme")


def test_edits_by_hand_are_undone(site: Site) -> None:
    site.run(tenant())
    name = site.only()["metadata"]["name"]
    edit = {"metadata": {"labels": {"app": None}, "annotations": {"tokenlabs.io/fingerprint": "x", "theirs": "kept"}}}
    site.api.raw("PATCH", f"{site.path}/{name}", edit, "application/merge-patch+json")
    assert done(site.run(tenant())) == {"updated": ["acme"]}
    metadata = site.only()["metadata"]
    assert metadata["labels"]["app"] == "token-labs" and metadata["annotations"]["theirs"] == "kept"
    assert metadata["name"] == name
    # An edited tier may have been read or not: only another Secret makes sure which one counts.
    edit = {"metadata": {"annotations": {"kuadrant.io/groups": "pro"}}}
    site.api.raw("PATCH", f"{site.path}/{name}", edit, "application/merge-patch+json")
    assert done(site.run(tenant())) == {"updated": ["acme"]}
    metadata = site.only()["metadata"]
    assert metadata["annotations"]["kuadrant.io/groups"] == "free" and metadata["name"] != name
    assert site.run(tenant())["changed"] is False


def test_copies_are_removed_after_the_one_that_stays_was_touched(site: Site) -> None:
    site.run(tenant())
    original = site.only()
    copy = {"metadata": {**original["metadata"], "name": "copy"}, "data": original["data"]}
    for server_side in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        copy["metadata"].pop(server_side)
    copy["metadata"]["annotations"] = {**copy["metadata"]["annotations"], "kuadrant.io/groups": "pro"}
    site.api.raw("POST", site.path, copy)
    since = site.api.mark()
    assert done(site.run(tenant())) == {"updated": ["acme"]}
    name = original["metadata"]["name"]
    verbs = [write.split("?")[0] for write in site.api.writes(since)]
    assert verbs == [f"patch {site.path}/{name}", f"delete {site.path}/copy"]
    assert site.only()["metadata"]["resourceVersion"] != original["metadata"]["resourceVersion"]
    assert site.run(tenant())["changed"] is False


def test_foreign_secrets_are_seen_and_left_alone(site: Site) -> None:
    key = base64.b64encode(b"tlabs_sk_" + b"x" * 43).decode()
    labels = {"app": "token-labs", "tokenlabs.io/state": "active", "tokenlabs.io/tenant": "acme"}
    site.api.raw("POST", site.path, {"metadata": {"name": "theirs", "labels": labels}, "data": {"api_key": key}})
    helm = {"metadata": {"name": "release", "labels": labels}, "type": "helm.sh/release.v1", "data": {"api_key": key}}
    site.api.raw("POST", site.path, helm)
    result = site.run(tenant(), tenant("other"))
    assert done(result) == {"created": ["other"]}
    assert "Secret theirs is this tenant's by name but not managed here" in result["msg"]
    assert any("Secret theirs lets a key in" in str(warning) for warning in result["warnings"])
    assert "release" not in result.output
    assert len(site.secrets()) == 3


def test_pruning_is_guarded(site: Site) -> None:
    three = [tenant(name) for name in ("a", "b", "c")]
    site.run(*three)
    assert site.run(three[0])["unlisted"] == ["b", "c"]
    since = site.api.mark()
    assert "the list of tenants is empty" in site.run(prune=True)["msg"]
    assert (
        "it would remove 2 tenants, or keys of them (b, c), and prune_max allows 1"
        in site.run(three[0], prune=True, prune_max=1)["msg"]
    )
    assert done(site.run(three[0], prune=True, check=True)) == {"deleted": ["b", "c"]}
    assert site.api.writes(since) == []
    assert done(site.run(three[0], prune=True)) == {"deleted": ["b", "c"]}
    assert [entry.name for entry in site.keys.glob("*.key")] == ["a.key"]


def test_wrong_input_is_named_at_once_and_nothing_is_done(site: Site) -> None:
    since = site.api.mark()
    result = site.run(tenant("Bad"), tenant(tier="gold"), tenant(), tenant())
    for text in (
        "tenants[0].name is 'Bad', not of the right form",
        "tenants[1].tier (acme) is 'gold', which is no tier; known are free, pro",
        "tenants[3].name 'acme' is the name of tenants[1] too",
    ):
        assert text in result["msg"]
    assert site.api.requests(since) == [] and not site.keys.exists()


def test_a_directory_that_others_can_read(site: Site) -> None:
    site.keys.mkdir(mode=0o755)
    site.keys.chmod(0o755)
    assert "is open to other users (mode 0755)" in site.run(tenant())["msg"]
    assert site.secrets() == []


def test_two_thousand(site: Site) -> None:
    """Requests in proportion to changes, not to tenants."""
    many = [tenant(f"t{number:04d}") for number in range(2000)]
    first = site.run(*many)
    assert first["counts"]["created"] == 2000 and first["requests"] == 2001
    keys = {path.read_text() for path in site.keys.glob("*.key")}
    assert len(keys) == 2000

    again = site.run(*many)
    assert again["changed"] is False and again["counts"]["unchanged"] == 2000
    assert again["requests"] <= 5  # 4 pages, and one request that finds nothing more

    changed = [tenant(f"t{number:04d}", tier="pro") for number in range(10)] + many[10:]
    result = site.run(*changed)
    assert result["updated"] == [f"t{number:04d}" for number in range(10)]
    assert result["requests"] <= 5 + 2 * 10
    assert {path.read_text() for path in site.keys.glob("*.key")} == keys
