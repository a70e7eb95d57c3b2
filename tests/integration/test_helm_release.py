# SPDX-License-Identifier: GPL-3.0-or-later
"""The module helm_release with a real helm, a chart repository over HTTP and a real API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _charts
from ansible_collections.tokenlabs.platform.plugins.modules import helm_release

from tests.integration import apiserver, faultproxy
from tests.integration.charts import Source
from tests.integration.conftest import RunModule


@pytest.fixture
def wanted(tmp_path: Path, namespace: str, source: Source, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the module for a release `a`."""
    tools = apiserver.find_tools()
    missing = [name for name in ("helm", "helm-diff") if tools is None or not (tools / name).exists()]
    if missing or tools is None:
        pytest.skip(f"no {', '.join(missing)} beside kube-apiserver: build the lab's tools first")
    plugin = tmp_path / "plugins" / "helm-diff"
    (plugin / "bin").mkdir(parents=True)
    (plugin / "bin" / "diff").symlink_to(tools / "helm-diff")
    (plugin / "plugin.yaml").write_text('name: diff\nversion: 3.9.14\ncommand: "$HELM_PLUGIN_DIR/bin/diff"\n')
    monkeypatch.setenv("HELM_PLUGINS", str(tmp_path / "plugins"))
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"HELM_{kind}_HOME", str(tmp_path / kind))
    monkeypatch.setattr(_charts, "PAUSE", 0.01)
    return {
        "name": "a",
        "namespace": namespace,
        "chart": {"ref": "small", "repo_url": source.address, "version": "1.0.0"},
        "values": {"text": "one"},
        "directory": str(tmp_path / "charts"),
        "helm_path": str(tools / "helm"),
    }


def config(api: apiserver.ApiServer, namespace: str) -> dict[str, Any]:
    return api.raw("GET", f"/api/v1/namespaces/{namespace}/configmaps/a")


def revisions(api: apiserver.ApiServer, namespace: str) -> dict[str, str]:
    secrets = api.raw("GET", f"/api/v1/namespaces/{namespace}/secrets?labelSelector=owner%3Dhelm")["items"]
    return {each["metadata"]["labels"]["version"]: each["metadata"]["labels"]["status"] for each in secrets}


def test_the_life_of_a_release(
    api: apiserver.ApiServer, run: RunModule, wanted: dict[str, Any], source: Source, namespace: str
) -> None:
    mark = api.mark()
    rehearsed = run(helm_release, check=True, diff=True, **wanted)
    assert rehearsed["changed"] and "is not installed" in rehearsed["diff"]["prepared"]
    assert api.writes(mark) == [] and not Path(wanted["directory"]).exists()

    assert run(helm_release, **wanted)["changed"]
    assert config(api, namespace)["data"] == {"text": "one"}

    source.asked.clear()
    mark = api.mark()
    second = run(helm_release, diff=True, **wanted)
    assert (second["changed"], second["reasons"]) == (False, []) and "diff" not in second
    # Neither the source of the charts nor the API is bothered.
    assert source.asked == [] and api.writes(mark) == []
    assert len(api.requests(mark)) < 10

    other = {**wanted, "values": {"text": "two"}}
    rehearsed = run(helm_release, check=True, diff=True, **other)
    assert rehearsed["reasons"] == ["other values"] and "two" in rehearsed["diff"]["prepared"]
    assert config(api, namespace)["data"] == {"text": "one"}
    assert run(helm_release, **other)["reasons"] == ["other values"]
    assert config(api, namespace)["data"] == {"text": "two"}
    assert run(helm_release, **wanted)["changed"] and not run(helm_release, **wanted)["changed"]

    source.offer("1.1.0")
    newer = {**wanted, "chart": {**wanted["chart"], "version": "1.1.0"}}
    assert run(helm_release, **newer)["reasons"] == ["chart small 1.0.0 -> small 1.1.0"]
    assert config(api, namespace)["metadata"]["labels"]["version"] == "1.1.0"
    assert not run(helm_release, **newer)["changed"]


def test_what_was_deleted_or_changed_by_hand_is_mended(
    api: apiserver.ApiServer, run: RunModule, wanted: dict[str, Any], namespace: str
) -> None:
    run(helm_release, **wanted)
    path = f"/api/v1/namespaces/{namespace}"
    api.raw("DELETE", f"{path}/serviceaccounts/a")
    rehearsed = run(helm_release, check=True, **wanted)
    assert rehearsed["reasons"] == [f"ServiceAccount/{namespace}/a is gone"]
    assert run(helm_release, **wanted)["changed"]
    assert api.raw("GET", f"{path}/serviceaccounts/a")

    api.raw("PATCH", f"{path}/configmaps/a", {"data": {"text": "by hand"}}, "application/merge-patch+json")
    assert run(helm_release, **wanted)["reasons"] == [f"ConfigMap/{namespace}/a was changed"]
    assert config(api, namespace)["data"] == {"text": "one"}

    # What others add is no drift.
    api.raw("PATCH", f"{path}/configmaps/a", {"data": {"more": "x"}}, "application/merge-patch+json")
    mark = api.mark()
    assert not run(helm_release, **wanted)["changed"]
    assert api.writes(mark) == []


def test_a_change_that_failed_is_made_again(
    api: apiserver.ApiServer, run: RunModule, wanted: dict[str, Any], namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/a"
    # Somebody else's object of the same name: helm refuses to take it over.
    api.raw("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "a"}})
    failed = run(helm_release, **wanted)
    assert failed["failed"] and f"release {namespace}/a" in failed["msg"] and "ServiceAccount" in failed["msg"]
    api.raw("DELETE", path)
    assert run(helm_release, **wanted)["changed"]
    assert not run(helm_release, **wanted)["changed"]


def test_a_source_that_is_down(
    api: apiserver.ApiServer, run: RunModule, wanted: dict[str, Any], source: Source, namespace: str
) -> None:
    source.failures = 100
    mark = api.mark()
    failed = run(helm_release, **wanted)
    assert failed["failed"] and len(source.asked) == 3
    assert "small 1.0.0 from http://127.0.0.1" in failed["msg"] and "asked 3 times" in failed["msg"]
    assert "tokenlabs_mirrors" in failed["msg"], failed["msg"]
    assert api.writes(mark) == []

    # A moment of weakness is nobody's business.
    source.failures = 1
    assert run(helm_release, **wanted)["changed"]

    # What is installed and right needs no source.
    source.failures = 100
    assert not run(helm_release, **wanted)["changed"]


def test_another_chart_than_the_one_asked_for(
    api: apiserver.ApiServer, run: RunModule, wanted: dict[str, Any], source: Source, namespace: str
) -> None:
    right = source.offer("1.0.0")
    mark = api.mark()
    refused = run(helm_release, **{**wanted, "chart": {**wanted["chart"], "sha256": "0" * 64}})
    assert refused["failed"] and right in refused["msg"] and "tokenlabs_checksums" in refused["msg"]
    assert api.writes(mark) == [] and not Path(wanted["directory"]).exists()
    assert run(helm_release, **{**wanted, "chart": {**wanted["chart"], "sha256": right}})["changed"]


def test_a_certificate_is_renewed_before_its_end(
    api: apiserver.ApiServer, run: RunModule, wanted: dict[str, Any], namespace: str
) -> None:
    secret = f"/api/v1/namespaces/{namespace}/secrets/webhook"
    watched = {**wanted, "values": {"text": "one", "days": 20}, "certificate": {"secret": "webhook", "days": 30}}
    run(helm_release, **{**watched, "certificate": None})
    first = api.raw("GET", secret)["data"]["tls.crt"]
    # helm alone would keep it for ever.
    assert not run(helm_release, **{**watched, "certificate": None})["changed"]
    rehearsed = run(helm_release, check=True, **watched)
    assert "Secret webhook: its certificate ends 20" in rehearsed["reasons"][0]
    assert api.raw("GET", secret)["data"]["tls.crt"] == first
    assert run(helm_release, **watched)["changed"]
    assert api.raw("GET", secret)["data"]["tls.crt"] != first
    enough = {**watched, "certificate": {"secret": "webhook", "days": 10}}
    mark = api.mark()
    assert not run(helm_release, **enough)["changed"] and api.writes(mark) == []
    assert json.dumps(api.raw("GET", secret)["data"]["tls.key"]) not in json.dumps(rehearsed)


@pytest.mark.parametrize(
    "fault",
    [
        faultproxy.status(429, "TooManyRequests", retry_after=1),
        faultproxy.status(503, "ServiceUnavailable"),
        faultproxy.cut,
    ],
    ids=["429", "503", "cut"],
)
def test_an_api_that_stumbles(
    api: apiserver.ApiServer,
    run: RunModule,
    wanted: dict[str, Any],
    fault: faultproxy.Fault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    namespace: str,
) -> None:
    run(helm_release, **wanted)
    api.raw("DELETE", f"/api/v1/namespaces/{namespace}/serviceaccounts/a")
    with faultproxy.running(api, tmp_path / "proxy") as proxy:
        monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(proxy.kubeconfig))
        proxy.on("get", "list", "discover", fault=fault, times=2)
        mended = run(helm_release, **wanted)
    assert not mended.get("failed"), mended.get("msg")
    assert mended["reasons"] == [f"ServiceAccount/{namespace}/a is gone"]


def test_an_api_that_is_down_is_named(
    api: apiserver.ApiServer, run: RunModule, wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faultproxy.running(api, tmp_path / "proxy") as proxy:
        monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(proxy.kubeconfig))
        proxy.on("get", "list", fault=faultproxy.status(500, "InternalError", "etcd has no leader"))
        failed = run(helm_release, **wanted)
    assert failed["failed"] and "etcd has no leader" in failed["msg"] and "500" in failed["msg"]
