# SPDX-License-Identifier: GPL-3.0-or-later
"""The module cluster_info, and what preflight makes of it, against a real API server."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _cluster as cluster
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import RELEASES
from ansible_collections.tokenlabs.platform.plugins.modules import cluster_info

from tests.integration import apiserver, conftest, faultproxy
from tests.integration.conftest import RunModule
from tests.unit.plugins.test_cluster import CATALOG


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.ApiServer]:
    """An empty control plane: what others install in theirs would be found, too."""
    with conftest.control_plane(tmp_path_factory.mktemp("empty")) as server:
        yield server


def record(api: apiserver.ApiServer, namespace: str, name: str, chart: str, version: str, number: int = 1) -> None:
    """A revision as helm keeps it."""
    told = {
        "name": name,
        "namespace": namespace,
        "version": number,
        "info": {"status": "deployed"},
        "chart": {"metadata": {"name": chart, "version": version}},
    }
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(told).encode()))).decode()
    labels = {"owner": "helm", "name": name, "status": "deployed", "version": str(number)}
    body = {
        "metadata": {"name": f"sh.helm.release.v1.{name}.v{number}", "labels": labels},
        "type": "helm.sh/release.v1",
        "data": {"release": packed},
    }
    api.raw("POST", f"/api/v1/namespaces/{namespace}/secrets", body)


def test_an_empty_cluster_lacks_everything(api: apiserver.ApiServer, run: RunModule, namespace: str) -> None:
    mark = api.mark()
    seen = run(cluster_info, namespace=namespace)
    assert api.writes(mark) == []
    assert seen["installed"] == {} and seen["storage_classes"] == {} and seen["load_balancer"] == ""
    told = cluster.report(seen, CATALOG)
    assert "storage class" in told["text"] and "load balancer" in told["text"] and "node spark-01" in told["text"]
    assert told["fatal"] == 2, told["text"]
    assert cluster.refusal(seen["installed"], CATALOG["release"]) == ""


def test_what_is_there_is_found(api: apiserver.ApiServer, run: RunModule, namespace: str) -> None:
    def made(path: str, body: dict[str, Any]) -> None:
        api.raw("POST", path, body)

    node = {"metadata": {"name": "spark-01", "labels": {"kubernetes.io/hostname": "spark-01"}}}
    made("/api/v1/nodes", node)
    status = {"status": {"allocatable": {cluster.GPU: "2"}, "conditions": [{"type": "Ready", "status": "True"}]}}
    api.raw("PATCH", "/api/v1/nodes/spark-01/status", status, "application/merge-patch+json")
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    made(
        "/apis/storage.k8s.io/v1/storageclasses",
        {"metadata": {"name": "local", "annotations": default}, "provisioner": "example.org/none"},
    )
    made("/api/v1/namespaces", {"metadata": {"name": "envoy-gateway-system"}})
    record(api, "envoy-gateway-system", "eg", "gateway-helm", "v1.7.5", 9)
    record(api, "envoy-gateway-system", "eg", "gateway-helm", "v1.8.3", 10)
    record(api, namespace, "pool-a", "inferencepool", "v1.3.0")
    try:
        seen = run(cluster_info, namespace=namespace)
        assert seen["nodes"]["spark-01"] == {"gpus": 2, "ready": True, "hostname": "spark-01", "cloud": False}
        assert seen["storage_classes"] == {"local": True}
        assert {name: each["version"] for name, each in seen["installed"].items()} == {
            "envoy_gateway": "v1.8.3",
            "inferencepool": "v1.3.0",
        }
        release = {"name": "2026.07", "versions": RELEASES["2026.07"].versions}
        refusal = cluster.refusal(seen["installed"], release)
        assert "envoy_gateway: v1.8.3 is installed (helm release eg in envoy-gateway-system)" in refusal
        assert "inferencepool" not in refusal
    finally:
        for path in (
            "/api/v1/nodes/spark-01",
            "/apis/storage.k8s.io/v1/storageclasses/local",
            "/api/v1/namespaces/envoy-gateway-system",
        ):
            api.raw("DELETE", path)


@pytest.mark.parametrize("code", [429, 503])
def test_an_api_that_stumbles(
    api: apiserver.ApiServer, run: RunModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with faultproxy.running(api, tmp_path / "proxy") as proxy:
        monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(proxy.kubeconfig))
        proxy.on("discover", "list", fault=faultproxy.status(code, "Busy"), skip=3, times=2)
        assert not run(cluster_info).get("failed")
