# SPDX-License-Identifier: GPL-3.0-or-later
"""Monitors select something: each selector and port is looked up among the objects that the lab really has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios import evidence
from tests.scenarios.conftest import kubectl, playbook

STACK = ("-e", json.dumps({"tokenlabs_observability": {"prometheus": "stack"}}))
Object = dict[str, Any]


def listed(kind: str, *arguments: str) -> list[Object]:
    return json.loads(kubectl("get", kind, *arguments, "-o", "json"))["items"]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    done = playbook("observability", *STACK)
    assert done.code == 0, done.text


def selected(selector: Object, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    expressions = selector.get("matchExpressions") or []
    assert all(each["operator"] == "In" for each in expressions)
    return all(labels.get(each["key"]) in each["values"] for each in expressions)


def chosen(monitor: Object, kind: str) -> list[Object]:
    (namespace,) = monitor["spec"]["namespaceSelector"]["matchNames"]
    selector = monitor["spec"]["selector"]
    return [each for each in listed(kind, "-n", namespace) if selected(selector, each["metadata"].get("labels") or {})]


def container_ports(pod: Object) -> Iterator[Object]:
    for container in [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]:
        yield from container.get("ports") or []


def test_every_service_monitor_finds_its_services_ports_and_pods() -> None:
    monitors = [each for each in listed("servicemonitors", "-A") if each["metadata"]["name"].startswith("tokenlabs-")]
    assert {"tokenlabs-limitador", "tokenlabs-authorino", "tokenlabs-gpu", "tokenlabs-pickers"} <= {
        each["metadata"]["name"] for each in monitors
    }
    for monitor in monitors:
        name = monitor["metadata"]["name"]
        services = chosen(monitor, "services")
        for endpoint in monitor["spec"]["endpoints"]:
            ports = [
                (service, port)
                for service in services
                for port in service["spec"]["ports"]
                if port["name"] == endpoint["port"]
            ]
            assert ports, f"{name}: no port {endpoint['port']} in {[each['metadata']['name'] for each in services]}"
            for service, port in ports:
                pods = [
                    pod
                    for pod in listed("pods", "-n", service["metadata"]["namespace"])
                    if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
                ]
                target = port.get("targetPort", port["port"])
                known = {each.get("name") for pod in pods for each in container_ports(pod)}
                assert pods and (isinstance(target, int) or target in known), f"{name}: {target} in none of its pods"
    # One worker's picker is not another's.
    (pickers,) = [each for each in monitors if each["metadata"]["name"] == "tokenlabs-pickers"]
    assert len(chosen(pickers, "services")) == len(listed("inferencepools", "-n", "token-labs"))


def test_every_pod_monitor_finds_its_pods_and_their_ports() -> None:
    monitors = {each["metadata"]["name"]: each for each in listed("podmonitors", "-A")}
    assert {"tokenlabs-envoy", "tokenlabs-models"} <= set(monitors)
    for name, monitor in monitors.items():
        pods = chosen(monitor, "pods")
        assert pods, name
        for pod in pods:
            known = {each.get("name") for each in container_ports(pod)}
            assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= known, (name, known)


def test_prometheus_takes_them_all() -> None:
    (server,) = listed("prometheuses", "-A")
    for kind in ("serviceMonitor", "podMonitor", "rule"):
        assert server["spec"][f"{kind}Selector"] == {} and server["spec"][f"{kind}NamespaceSelector"] == {}
    dashboards = listed("configmaps", "-n", "monitoring", "-l", "grafana_dashboard=1")
    assert len(dashboards) == 4


def test_the_filter_tells_tenants_apart() -> None:
    (deployment,) = listed("deployments", "-n", "envoy-ai-gateway-system")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    wanted = "--metricsRequestHeaderAttributes=x-tokenlabs-tenant:tenant.id,x-tokenlabs-tier:tenant.tier"
    assert wanted in container["args"]


def test_a_second_run_changes_nothing() -> None:
    began = time.time()
    again = playbook("observability", *STACK)
    assert again.code == 0, again.text
    assert again.changed == 0, again.text
    assert evidence.writes(began) == []
