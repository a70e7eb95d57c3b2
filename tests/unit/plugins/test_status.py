# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page: each kind of trouble is a line with a remedy, and a page without trouble says so."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _platform as platform
from ansible_collections.tokenlabs.platform.plugins.module_utils import _status as status
from ansible_collections.tokenlabs.platform.plugins.module_utils import _verify as verify

from tests.unit.plugins.test_verify import CATALOG as SMALL

Data = dict[str, Any]
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def days(number: int) -> str:
    return (NOW + timedelta(days=number, hours=1)).isoformat()


CATALOG: Data = {
    **SMALL,
    "release": {"name": "2026.07", "kubernetes_channel": "1.34/stable"},
    "charts": {chart: {"version": "v1"} for chart in (*status.RELEASES.values(), *status.MONITORING.values())},
    "observability": {"prometheus": "none"},
}


def titles() -> list[str]:
    targets = [check["object"] for check in verify.checks(CATALOG)]
    return ["/".join(part for part in (each["kind"], each.get("namespace"), each["name"]) if part) for each in targets]


def healthy() -> Data:
    """What is found where all is well."""
    host = {
        "installed": True,
        "version": "v1.34.3",
        "channel": "1.34/stable",
        "certificates": {"server.crt": days(300)},
    }
    node = {
        "ready": True,
        "reason": "kubelet is posting ready status",
        "since": "2026-11-01T00:00:00Z",
        "cordoned": False,
        "pressure": [],
        "control_plane": False,
        "kubelet": "v1.34.3",
        "arch": "arm64",
    }
    return copy.deepcopy(
        {
            "catalog": CATALOG,
            "hosts": {"controller": host, "spark-01": {**host, "gpu_driver": "580.95.05", "gpu_error": None}},
            "checks": verify.checks(CATALOG),
            "objects": {"ready": titles(), "pending": {}},
            "platform": {
                "nodes": [
                    {**node, "name": "controller", "gpus": 0, "gpus_used": 0},
                    {**node, "name": "spark-01", "gpus": 2, "gpus_used": 1},
                ],
                "releases": [
                    {"name": name, "namespace": "space", "chart": name, "version": "v1", "status": "deployed"}
                    for name in status.RELEASES
                ],
                "certificates": [{"name": "envoy-gateway-system/envoy", "ends": days(200)}],
                "workers": [{"name": "ms-a-decode", "wanted": 1, "available": 1}],
                "addresses": ["192.168.1.200"],
                "tenants": {"tiers": {"pro": 2}, "keys": {"active": 2}, "overdue": [], "soon": []},
                "unread": {},
            },
            "drift": {"counts": {}, "created": []},
        }
    )


def test_a_page_without_trouble_says_so() -> None:
    shown = status.page(healthy(), NOW)
    assert shown.findings == ()
    text = status.text(shown)
    assert text.rstrip().endswith("All is well.")
    assert "http://192.168.1.200 " in text
    assert "1 of 2 used" in text
    rows = {section.title: section.rows for section in shown.sections}
    assert ("a", "org/a", "1 of 1", "spark-01") in rows["Models"]
    assert ("b", "org/b", "not installed", "spark-01") in rows["Models"]
    assert ("AuthPolicy token-labs-auth", "enforced") in rows["Policies"]


def pending(name: str, why: str) -> Callable[[Data], None]:
    def break_it(found: Data) -> None:
        (title,) = [title for title in titles() if title.endswith(f"/{name}")]
        found["objects"]["ready"].remove(title)
        found["objects"]["pending"][title] = why

    return break_it


def node(**changes: Any) -> Callable[[Data], None]:
    return lambda found: found["platform"]["nodes"][1].update(changes)


def host(**changes: Any) -> Callable[[Data], None]:
    return lambda found: found["hosts"]["spark-01"].update(changes)


def in_platform(**changes: Any) -> Callable[[Data], None]:
    return lambda found: found["platform"].update(changes)


def no_answer(found: Data) -> None:
    found["platform"] = {"msg": "the Kubernetes API does not answer"}
    found["objects"], found["drift"] = {"skipped": True}, {"skipped": True}


def release(**changes: Any) -> Callable[[Data], None]:
    return lambda found: found["platform"]["releases"][3].update(changes)


def lose_a_node(found: Data) -> None:
    del found["platform"]["nodes"][1]


def foreign_node(found: Data) -> None:
    found["platform"]["nodes"].append({**found["platform"]["nodes"][1], "name": "stranger"})


def unreachable(found: Data) -> None:
    found["hosts"]["spark-01"] = {"unreachable": True, "msg": "ssh: connect to host\n 192.168.1.11: timed out"}


def no_module(found: Data) -> None:
    found["hosts"]["spark-01"] = {"msg": "snap list microk8s failed"}


def drift(**lists: Any) -> Callable[[Data], None]:
    return lambda found: found["drift"].update(lists)


# What is broken: how, the level, what is told and what is advised.
TROUBLES: dict[str, tuple[Callable[[Data], None], str, str, str]] = {
    "host away": (unreachable, "error", "spark-01 cannot be reached: ssh: connect to host 192", "switch it on"),
    "host unreadable": (no_module, "error", "spark-01 cannot be looked at: snap list", "see to that"),
    "not installed": (host(installed=False), "error", "not installed on spark-01", "cluster.yml"),
    "GPU driver": (host(gpu_error="NVIDIA-SMI has failed"), "error", "GPU of spark-01 does not answer", "nvidia-smi"),
    "no API": (no_answer, "error", "cannot be asked: the Kubernetes API does not answer", "microk8s status"),
    "unread": (in_platform(unread={"pods": "500"}), "warning", "pods could not be read: 500", "again"),
    "node gone": (lose_a_node, "error", "spark-01 is no node", "cluster.yml"),
    "not ready": (node(ready=False, reason="Kubelet stopped"), "error", "spark-01 is not Ready since 2026", "kubelite"),
    "cordoned": (node(cordoned=True), "warning", "spark-01 is cordoned", "uncordon spark-01"),
    "pressure": (node(pressure=["DiskPressure"]), "error", "spark-01 is under DiskPressure", "disk"),
    "GPU slots": (node(gpus=1), "error", "offers 1 of 2 GPU slots", "gpu-operator"),
    "channel": (host(channel="1.33/stable"), "warning", "follows MicroK8s 1.33/stable", "upgrade.yml"),
    "foreign node": (foreign_node, "warning", "stranger is a node of the cluster", "remove_node.yml -e node=stranger"),
    "release failed": (release(status="failed"), "error", "space/eg is failed", "gateway.yml"),
    "release old": (release(version="v0"), "warning", "eg is v0, release set 2026.07 has v1", "gateway.yml"),
    "component": (
        pending("limitador-limitador", "0 of 1 replicas are available"),
        "error",
        "limitador-limitador is available; 0 of 1",
        "gateway.yml",
    ),
    "GPU operator": (pending("cluster-policy", "status.state is notReady"), "error", "GPU operator", "cluster.yml"),
    "redis": (pending("redis", "0 of 1 replicas are ready"), "error", "redis is ready", "describe pod redis-0"),
    "policy": (
        pending("token-labs-auth", "condition Enforced is False"),
        "error",
        "token-labs-auth is enforced; condition Enforced is False",
        "gateway.yml",
    ),
    "model": (
        pending("ms-a-decode", "pod x, container vllm: ImagePullBackOff"),
        "error",
        "a: 1 worker",
        "inference.yml",
    ),
    "tenant without key": (drift(created=["acme"]), "warning", "no key yet: acme", "tenants.yml"),
    "tenant let in": (drift(suspended=["acme"]), "warning", "let in, suspended in the inventory: acme", "tenants.yml"),
    "tenants unread": (lambda found: found.update(drift={"msg": "x"}), "warning", "not be compared: x", "tenants.yml"),
    "overdue": (
        in_platform(tenants={"tiers": {}, "keys": {}, "overdue": ["acme"], "soon": []}),
        "error",
        "still let in: acme",
        "tenants.yml",
    ),
    "due": (
        in_platform(tenants={"tiers": {}, "keys": {}, "overdue": [], "soon": ["acme"]}),
        "warning",
        "keys end soon: acme",
        "--tags report",
    ),
    "certificate soon": (
        in_platform(certificates=[{"name": "token-labs/tls", "ends": days(20)}]),
        "warning",
        "token-labs/tls ends in 20 days",
        "-n token-labs get secret tls",
    ),
    "certificate of Envoy Gateway": (
        in_platform(certificates=[{"name": "envoy-gateway-system/envoy", "ends": days(20)}]),
        "warning",
        "envoy-gateway-system/envoy ends in 20 days",
        "--overwrite",
    ),
    "certificate of the webhook": (
        in_platform(
            certificates=[{"name": "envoy-ai-gateway-system/self-signed-cert-for-mutating-webhook", "ends": days(6)}]
        ),
        "error",
        "self-signed-cert-for-mutating-webhook ends in 6 days",
        "gateway.yml renews it",
    ),
    "certificate over": (
        host(certificates={"server.crt": days(-2)}),
        "error",
        "spark-01:server.crt ended on 2026-11-19",
        "refresh-certs --cert server.crt",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_is_a_line_with_a_remedy(name: str) -> None:
    break_it, level, what, remedy = TROUBLES[name]
    found = healthy()
    break_it(found)
    shown = status.page(found, NOW)
    (finding,) = shown.findings
    assert (finding.level, what in finding.what, remedy in finding.remedy) == (level, True, True), finding
    assert "\n" not in finding.what
    assert finding.what in status.text(shown)
    assert status.text(shown).index("NODE") < status.text(shown).index(finding.what)


def elsewhere() -> Data:
    """The same on a cluster that somebody else runs: no host is asked, its nodes and releases are not all ours."""
    found = healthy()
    found["catalog"]["cluster"] = "existing"
    found["hosts"] = {}
    found["checks"] = verify.checks(found["catalog"])
    found["platform"]["nodes"][0]["name"] = "theirs"
    found["platform"]["releases"][0] |= {"namespace": "theirs", "version": "v0", "status": "failed"}
    found["platform"]["releases"].append({**found["platform"]["releases"][0], "name": "wordpress"})
    return found


def test_a_cluster_of_somebody_else_is_well_without_hosts() -> None:
    shown = status.page(elsewhere(), NOW)
    assert shown.findings == ()
    text = status.text(shown)
    assert "2026.07 on a cluster that somebody else runs" in text
    assert "microk8s" not in text and "wordpress" not in text and "gpu-operator" not in text
    assert re.search(r"^theirs +Ready", text, re.MULTILINE)


def test_what_is_wrong_there_is_not_mended_on_its_hosts() -> None:
    found = elsewhere()
    found["platform"]["nodes"][1].update(ready=False, gpus=0)
    found["platform"]["releases"].append({**found["platform"]["releases"][0], "name": "ms-a", "namespace": "space"})
    told = status.page(found, NOW).findings
    assert [each.what.split(":")[0].split(" since")[0] for each in told] == [
        "node spark-01 is not Ready",
        "Helm release space/ms-a is failed",
    ]
    lose_a_node(found)
    told += status.page(found, NOW).findings
    no_answer(found)
    told += status.page(found, NOW).findings
    assert "spark-01 is no node of the cluster" in [each.what for each in told]
    assert not any("microk8s" in each.remedy or "cluster.yml" in each.remedy for each in told), told


def test_what_the_inventory_asks_for_is_among_the_components() -> None:
    found = healthy()
    found["catalog"]["observability"] = {"prometheus": "stack"}
    found["catalog"]["models"][0]["max_replicas"] = 2
    mine = {"namespace": "monitoring", "chart": "x", "version": "v0", "status": "deployed"}
    found["platform"]["releases"].append({**mine, "name": "kube-prometheus-stack"})
    shown = status.page(found, NOW)
    (components,) = [section.rows for section in shown.sections if section.title == "Components"]
    assert components[-2:] == (
        ("kube-prometheus-stack", "v0", "v1", "deployed"),
        ("prometheus-adapter", "-", "v1", "not installed"),
    )
    assert [each.what.split()[0] for each in shown.findings] == ["kube-prometheus-stack", "prometheus-adapter"]
    assert all("observability.yml" in each.remedy for each in shown.findings)


def test_errors_come_before_warnings() -> None:
    found = healthy()
    for name in ("cordoned", "redis", "release old", "GPU driver"):
        TROUBLES[name][0](found)
    levels = [finding.level for finding in status.page(found, NOW).findings]
    assert levels == ["error", "error", "warning", "warning"]
    assert status.page(found, NOW).verdict == "2 errors, 2 warnings"


def test_what_was_never_installed_is_one_line_for_each_part() -> None:
    found = healthy()
    found["objects"] = {"ready": [], "pending": {title: "it does not exist" for title in titles()}}
    told = [finding.what for finding in status.page(found, NOW).findings]
    assert [re.sub(r"[0-9]+", "N", what) for what in told] == [
        f"not installed: {what} (N objects)"
        for what in (
            "custom resource definitions",
            "components",
            "Gateway and GatewayClass",
            "models",
            "routes",
            "policies",
        )
    ]


def test_the_gateways_address_is_as_clients_write_it() -> None:
    found = healthy()
    found["catalog"]["gateway"] |= {"tls": {"secret": "x"}, "https_port": 8443}
    assert "https://192.168.1.200:8443 " in status.text(status.page(found, NOW))


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_file_needs_no_other_and_takes_no_markup_from_the_cluster() -> None:
    found = healthy()
    found["platform"]["nodes"][1].update(ready=False, reason="<script>alert(1)</script>")
    written = status.html(status.page(found, NOW))
    reader = Reader()
    reader.feed(written)
    assert not reader.open
    assert not reader.outside
    assert "<script>" not in written
    assert "&lt;script&gt;" in written


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="known are text, html"):
        status.render(healthy(), "pdf")


def helm_secret(name: str, version: str, revision: int = 1, state: str = "deployed") -> Data:
    body = {"chart": {"metadata": {"name": "chart", "version": version}}, "config": {"password": "hush"}}
    packed = base64.b64encode(gzip.compress(json.dumps(body).encode()))
    return {
        "metadata": {
            "name": f"sh.helm.release.v1.{name}.v{revision}",
            "namespace": "space",
            "labels": {"name": name, "status": state, "version": str(revision)},
        },
        "data": {"release": base64.b64encode(packed).decode()},
    }


def test_of_a_helm_release_only_its_last_chart_and_state_are_told() -> None:
    secrets = [helm_secret("eg", "v2", 10, "failed"), helm_secret("eg", "v1", 9), helm_secret("aieg", "v5")]
    found = platform.newest(map(platform.release, secrets))
    assert [(each["name"], each["version"], each["status"]) for each in found] == [
        ("aieg", "v5", "deployed"),
        ("eg", "v2", "failed"),
    ]
    assert "hush" not in json.dumps(found)


def test_a_release_that_cannot_be_read_is_told_without_its_version() -> None:
    broken = helm_secret("eg", "v1")
    broken["data"]["release"] = "bm90aGluZw=="
    assert platform.release(broken)["version"] == ""


def test_a_node_is_told_with_what_it_lacks() -> None:
    live = {
        "metadata": {"name": "spark-01", "labels": {}},
        "spec": {"unschedulable": True},
        "status": {
            "allocatable": {"nvidia.com/gpu": "2"},
            "conditions": [
                {"type": "Ready", "status": "Unknown", "message": "Kubelet stopped", "lastTransitionTime": "then"},
                {"type": "DiskPressure", "status": "True"},
            ],
        },
    }
    told = platform.node(live)
    assert (told["ready"], told["cordoned"], told["pressure"], told["gpus"]) == (False, True, ["DiskPressure"], 2)
    assert (told["reason"], told["since"]) == ("Kubelet stopped", "then")


def test_only_pods_that_have_not_ended_hold_gpus() -> None:
    spec = {"nodeName": "spark-01", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}, {}]}
    assert platform.pod_gpus({"spec": spec, "status": {"phase": "Running"}}) == ("spark-01", 1)
    assert platform.pod_gpus({"spec": spec, "status": {"phase": "Succeeded"}}) == ("", 0)
