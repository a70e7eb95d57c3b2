# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster has, and whether the inventory fits it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _cluster as cluster
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import RELEASES


def installed(**versions: str) -> dict[str, Any]:
    return {component: {"version": version, "source": "here"} for component, version in versions.items()}


def release(name: str = "2026.07", **versions: str) -> dict[str, Any]:
    known = RELEASES[name]
    return {
        "name": name,
        "versions": {**known.versions, **versions},
        "kubernetes_oldest": known.oldest_kubernetes,
        "kubernetes_newest": known.newest_kubernetes,
        "unsupported": False,
    }


def whole(name: str) -> dict[str, Any]:
    components = (*cluster.HELM_RELEASES, *cluster.MODEL_CHARTS.values(), *cluster.BUNDLES)
    return installed(**{component: RELEASES[name].versions[component] for component in components})


ORDER = sorted(RELEASES)


@pytest.mark.parametrize("older", ORDER)
@pytest.mark.parametrize("newer", ORDER)
def test_sets_are_moved_forward_only(older: str, newer: str) -> None:
    told = cluster.refusal(whole(newer), release(older))
    assert bool(told) == (ORDER.index(newer) > ORDER.index(older)), told
    if told:
        assert f"the release {older} is older" in told and f"is the release {newer}" in told


def test_what_would_go_back_is_told_line_by_line() -> None:
    found = installed(envoy_gateway="v1.8.3", ai_gateway="v0.5.0", gateway_api="v1.5.1")
    lines = cluster.refusal(found, release()).splitlines()
    assert lines[1] == "envoy_gateway: v1.8.3 is installed (here), v1.7.5 is asked for"
    assert lines[2] == "gateway_api: v1.5.1 is installed (here), v1.4.1 is asked for"
    assert len(lines) == 4 and "teardown.yml" in lines[3]


def test_nothing_installed_and_a_newer_patch_are_fine() -> None:
    assert cluster.refusal({}, release()) == ""
    assert cluster.refusal(installed(envoy_gateway="v1.7.4"), release()) == ""
    # An override that goes back is a way back too.
    assert cluster.refusal(installed(envoy_gateway="v1.7.5"), release(envoy_gateway="v1.7.4"))


def test_a_half_done_move_is_no_release() -> None:
    assert cluster.likely_release(whole("2026.08")) == "2026.08"
    assert cluster.likely_release({**whole("2026.07"), **installed(gateway_api="v1.5.1")}) == ""
    assert cluster.likely_release({}) == ""


SEEN: dict[str, Any] = {
    "kubernetes": "v1.34.4",
    "nodes": {
        "spark-01": {"gpus": 1, "ready": True, "hostname": "spark-01", "cloud": False},
        "ip-1": {"gpus": 0, "ready": True, "hostname": "spark-02", "cloud": False},
    },
    "storage_classes": {"local-path": True},
    "load_balancer": "MetalLB",
}
CATALOG = {
    "release": release(),
    "nodes": {"localhost": {"gpu": False}, "spark-01": {"gpu": True}, "spark-02": {"gpu": True}},
    "models": [{"gpus": 1, "hosts": ["spark-01"]}],
}


def test_a_cluster_that_has_everything() -> None:
    told = cluster.report(SEEN, CATALOG)
    assert told["fatal"] == 0 and "LEVEL" not in told["text"] and "MetalLB" in told["text"]


@pytest.mark.parametrize(
    ("change", "fatal", "said"),
    [
        ({"kubernetes": "v1.31.9"}, 1, "upgrade the cluster to 1.32 to 1.35"),
        ({"kubernetes": "v1.36.0+k3s1"}, 1, "1.35"),
        ({"kubernetes": "v1.35.7-gke.1"}, 0, ""),
        ({"storage_classes": {}}, 0, "none, no default"),
        ({"storage_classes": {"slow": False}}, 0, "redis_storage_class"),
        ({"load_balancer": ""}, 0, "the gateway gets no address"),
        ({"nodes": {"spark-01": SEEN["nodes"]["spark-01"]}}, 1, "node spark-02"),
        ({"nodes": {**SEEN["nodes"], "spark-01": {**SEEN["nodes"]["spark-01"], "gpus": 0}}}, 0, "ask for 1"),
        ({"nodes": {**SEEN["nodes"], "spark-01": {**SEEN["nodes"]["spark-01"], "ready": False}}}, 0, "not Ready"),
    ],
)
def test_what_a_cluster_lacks(change: dict[str, Any], fatal: int, said: str) -> None:
    told = cluster.report({**SEEN, **change}, CATALOG)
    assert told["fatal"] == fatal and said in told["text"]
    assert bool(said) == ("LEVEL" in told["text"])


def test_an_unsupported_kubernetes_at_ones_own_risk() -> None:
    catalog = {**CATALOG, "release": {**release(), "unsupported": True}}
    assert cluster.report({**SEEN, "kubernetes": "v1.30.1"}, catalog)["fatal"] == 0
