# SPDX-License-Identifier: GPL-3.0-or-later
"""The module tenants when the server or the network is in trouble: it says so, and one more run makes all good."""

from __future__ import annotations

import base64
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _kube

from tests.integration import faultproxy
from tests.integration.apiserver import ApiServer
from tests.integration.conftest import ModuleResult, RunModule
from tests.integration.faultproxy import Proxy, cut, delay, first, status
from tests.integration.tenants_site import Body, Site, done, tenant

WRITES = ("create", "patch", "delete")
SUSPENDED = "suspended"


@pytest.fixture(scope="module")
def the_proxy(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with faultproxy.running(api, tmp_path_factory.mktemp("proxy") / "pki") as proxy:
        yield proxy


@pytest.fixture
def proxy(the_proxy: Proxy) -> Proxy:
    the_proxy.heal()
    return the_proxy


@pytest.fixture
def site(
    api: ApiServer, run: RunModule, namespace: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> Site:
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(proxy.kubeconfig))
    return Site(api, run, namespace, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lasts is given up after one repetition, not after eight."""
    monkeypatch.setattr(_kube, "retry_policy", functools.partial(_kube.retry_policy, attempts=1))


def live(site: Site) -> list[tuple[str, str, str]]:
    """Who gets in with which tier and which key, read past the proxy."""
    found = []
    for item in site.secrets():
        labels, annotations = item["metadata"]["labels"], item["metadata"]["annotations"]
        if labels.get("app") == "token-labs" and labels.get("tokenlabs.io/state") == "active":
            key = base64.b64decode(item["data"]["api_key"]).decode()
            found.append((annotations["secret.kuadrant.io/user-id"], annotations["kuadrant.io/groups"], key))
    return sorted(found)


def on_disk(site: Site) -> set[str]:
    return {path.read_text() for path in site.keys.glob("*.key*")}


def nothing_unknown(site: Site) -> None:
    """Every key that works is on the disk."""
    assert {key for _tenant, _tier, key in live(site)} <= on_disk(site)


def made_good(site: Site, proxy: Proxy, *wanted: Body) -> None:
    """One run without faults, and everything is as it should be; a second has nothing to do."""
    nothing_unknown(site)
    proxy.heal()
    assert not site.run(*wanted).get("failed")
    entries = live(site)
    assert [entry[:2] for entry in entries] == sorted(
        (each["name"], each["tier"]) for each in wanted if each["state"] == "present"
    )
    assert len({key for _tenant, _tier, key in entries}) == len(entries), "a key is shared"
    kept = sum(each["state"] != "absent" for each in wanted)
    assert len(site.secrets()) == kept and len(on_disk(site)) == kept
    nothing_unknown(site)
    proxy.heal()
    assert site.run(*wanted)["changed"] is False
    assert not any(proxy.seen[verb] for verb in WRITES)


def failed(result: ModuleResult) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in result.get("failed_tenants", ())}


THREE = tuple(tenant(name) for name in ("a", "b", "c"))
# Each kind of write: a new Secret, a change in place, a new Secret for an old one, a deletion.
CHANGED = (tenant("a", tier="pro"), tenant("b", state=SUSPENDED), tenant("c", state="absent"), tenant("d"))


def edit(site: Site, name: str, **annotations: str) -> None:
    """Somebody with kubectl."""
    for item in site.secrets():
        if item["metadata"]["labels"]["tokenlabs.io/tenant"] == name:
            body = {"metadata": {"annotations": annotations}}
            target = f"{site.path}/{item['metadata']['name']}"
            site.api.raw("PATCH", target, body, "application/merge-patch+json")


@pytest.mark.parametrize("verb", WRITES)
def test_an_edit_between_the_list_and_a_write_is_looked_at_again(site: Site, proxy: Proxy, verb: str) -> None:
    site.run(*THREE)
    keys = {name: key for name, _tier, key in live(site)}

    def edit_all() -> None:
        for name in keys:
            edit(site, name, theirs="kept")

    proxy.on(verb, fault=first(edit_all), times=1)
    result = site.run(*CHANGED)
    assert not result.get("failed"), result["msg"]
    assert {action: names for action, names in done(result).items() if action != "updated"} == {
        "created": ["d"],
        "suspended": ["b"],
        "deleted": ["c"],
    }
    made_good(site, proxy, *CHANGED)
    assert {name: key for name, _tier, key in live(site)}["a"] == keys["a"]


def test_who_edits_again_and_again_is_named(site: Site, proxy: Proxy) -> None:
    site.run(*THREE)
    proxy.on("patch", fault=first(lambda: edit(site, "b", theirs=str(time.monotonic_ns()))))
    result = site.run(*CHANGED)
    assert set(failed(result)) == {"b"} and "409 Conflict" in failed(result)["b"]
    # The others are done.
    assert done(result) == {"created": ["d"], "updated": ["a"], "deleted": ["c"]}
    made_good(site, proxy, *CHANGED)


def test_a_secret_that_is_deleted_between_the_list_and_the_write(site: Site, proxy: Proxy) -> None:
    site.run(*THREE)
    keys = {name: key for name, _tier, key in live(site)}

    def lose() -> None:
        for item in site.secrets():
            if item["metadata"]["labels"]["tokenlabs.io/tenant"] == "b":
                site.api.raw("DELETE", f"{site.path}/{item['metadata']['name']}")

    proxy.on("patch", fault=first(lose), times=1)
    result = site.run(THREE[0], tenant("b", state=SUSPENDED), THREE[2])
    assert not result.get("failed"), result["msg"]
    made_good(site, proxy, *THREE)
    assert {name: key for name, _tier, key in live(site)} == keys


def test_an_expired_continue_token_starts_the_list_again(
    site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kube, "PAGE", 1)
    site.run(*THREE)
    proxy.heal()
    proxy.on("continue", fault=status(410, "Expired"), skip=1, times=1)
    result = site.run(*CHANGED)
    assert not result.get("failed") and result["counts"]["unchanged"] == 0
    assert proxy.seen["list"] == 2
    made_good(site, proxy, *CHANGED)


def test_a_list_that_never_ends_well_writes_nothing(site: Site, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kube, "PAGE", 1)
    site.run(*THREE)
    proxy.heal()
    proxy.on("continue", fault=status(410, "Expired"))
    result = site.run(*CHANGED)
    assert result["failed"] and "410 Expired" in result["msg"]
    assert not any(proxy.seen[verb] for verb in WRITES)
    made_good(site, proxy, *CHANGED)


@pytest.mark.parametrize("code", [429, 503])
def test_a_server_that_asks_for_patience_gets_it(site: Site, proxy: Proxy, code: int) -> None:
    site.run(*THREE)
    reason = {429: "TooManyRequests", 503: "ServiceUnavailable"}[code]
    for verb in ("list", *WRITES):
        proxy.on(verb, fault=status(code, reason, retry_after=1), times=1)
    begin = time.monotonic()
    result = site.run(*CHANGED)
    assert not result.get("failed"), result["msg"]
    # Once for the list, and once for the writes, which wait side by side.
    assert time.monotonic() - begin >= 2
    made_good(site, proxy, *CHANGED)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_overloaded_fails_every_tenant(site: Site, proxy: Proxy, code: int) -> None:
    site.run(*THREE)
    proxy.on(*WRITES, fault=status(code, "Overloaded", "not now"))
    result = site.run(*CHANGED)
    assert set(failed(result)) == {"a", "b", "c", "d"}
    assert all("not now" in reason for reason in failed(result).values())
    made_good(site, proxy, *CHANGED)


THOUSAND = tuple(tenant(f"t{number:04d}") for number in range(1000))


@pytest.mark.parametrize("late", [False, True], ids=["before the server has it", "before the answer is here"])
def test_connections_dropped_in_the_middle_of_a_thousand(site: Site, proxy: Proxy, late: bool) -> None:
    proxy.on("create", fault=cut, skip=500, times=20, late=late)
    result = site.run(*THOUSAND)
    assert not result.get("failed"), result["msg"]
    assert result["counts"]["created"] == 1000
    assert proxy.seen["create"] == 1020 and bool(proxy.seen["get"]) is late
    made_good(site, proxy, *THOUSAND)


@pytest.mark.usefixtures("impatient")
def test_the_network_ends_in_the_middle_of_a_thousand(site: Site, proxy: Proxy) -> None:
    proxy.on("create", fault=cut, skip=500, late=True)
    proxy.on("get", fault=cut)
    result = site.run(*THOUSAND)
    assert result["failed"] and result["counts"]["created"] < 1000
    assert result["counts"]["created"] + result["counts"]["failed"] == 1000
    # Some are in the cluster without our knowing; but none without its key on the disk.
    assert len(live(site)) > result["counts"]["created"]
    made_good(site, proxy, *THOUSAND)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(403, "Forbidden"), (500, "InternalError"), (507, "InsufficientStorage")],
    ids=["policy", "store without space", "unheard of"],
)
def test_an_api_that_can_only_be_read(site: Site, proxy: Proxy, code: int, reason: str) -> None:
    site.run(*THREE)
    before = live(site)
    proxy.on(*WRITES, fault=status(code, reason, "read-only"))
    result = site.run(*CHANGED)
    assert set(failed(result)) == {"a", "b", "c", "d"} and result["changed"] is False
    assert all("read-only" in text for text in failed(result).values())
    assert live(site) == before
    made_good(site, proxy, *CHANGED)


def test_a_slow_server_is_waited_for(site: Site, proxy: Proxy) -> None:
    proxy.on("list", *WRITES, fault=delay(1.0))
    begin = time.monotonic()
    assert not site.run(*CHANGED).get("failed")
    assert time.monotonic() - begin < 1.0 * 2 + 3, "the writes did not wait side by side"
    made_good(site, proxy, *CHANGED)
