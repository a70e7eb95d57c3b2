# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may connect to keys, counters and models, as the NetworkPolicies of all roles say together."""

from __future__ import annotations

import copy
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml

from tests.contract.test_roles import documents, render
from tests.unit.plugins.catalog.inventories import load_plugins

ENVOY = (
    "envoy-gateway-system",
    {"app.kubernetes.io/component": "proxy", "app.kubernetes.io/managed-by": "envoy-gateway"},
)
RATELIMIT = ("envoy-gateway-system", {"app.kubernetes.io/name": "envoy-ratelimit"})
LIMITADOR = ("kuadrant-system", {"app": "limitador", "limitador-resource": "limitador"})
AUTHORINO = ("kuadrant-system", {"authorino-resource": "authorino", "control-plane": "controller-manager"})
REDIS = ("redis-system", {"app.kubernetes.io/name": "redis"})
# What comes from a node itself, as the proxy of an API server does.
CONTROLLER = ("", {"address": "192.168.1.10"})
SPARK = ("", {"address": "192.168.1.11"})
WORKER = ("token-labs", {"llm-d.ai/model": "qwen"})
PICKER = ("token-labs", {"inferencepool": "pool-qwen-epp"})
PROMETHEUS = ("monitoring", {"app.kubernetes.io/name": "prometheus"})
# Who must not: pods of anybody, also where friends live, and with labels that are right in another namespace.
STRANGERS = [
    ("default", {}),
    ("default", dict(LIMITADOR[1])),
    ("default", {**ENVOY[1], "app.kubernetes.io/name": "prometheus"}),
    ("monitoring", {"app.kubernetes.io/name": "grafana"}),
    ("monitoring", dict(ENVOY[1])),
    ("kube-system", {"k8s-app": "kube-dns"}),
]
Pod = tuple[str, dict[str, str]]

OPEN = [
    (ENVOY, AUTHORINO, 50051),
    (ENVOY, LIMITADOR, 8081),
    (ENVOY, RATELIMIT, 8081),
    (LIMITADOR, REDIS, 6379),
    (RATELIMIT, REDIS, 6379),
    (ENVOY, WORKER, 8000),
    (ENVOY, PICKER, 9002),
    (PICKER, WORKER, 8000),
    (PROMETHEUS, WORKER, 8000),
    (PROMETHEUS, AUTHORINO, 8080),
    (PROMETHEUS, LIMITADOR, 8080),
    (CONTROLLER, LIMITADOR, 8080),
    (PROMETHEUS, RATELIMIT, 19001),
]
SHUT = [
    *((stranger, AUTHORINO, port) for stranger in STRANGERS for port in (50051, 5001, 8080)),
    *((stranger, LIMITADOR, port) for stranger in STRANGERS for port in (8080, 8081)),
    *((stranger, RATELIMIT, port) for stranger in STRANGERS for port in (8080, 8081, 6070)),
    *((stranger, REDIS, 6379) for stranger in STRANGERS),
    *((stranger, WORKER, 8000) for stranger in STRANGERS),
    # Friends of one are no friends of all.
    (PROMETHEUS, REDIS, 6379),
    (PROMETHEUS, LIMITADOR, 8081),
    (PROMETHEUS, AUTHORINO, 50051),
    (ENVOY, REDIS, 6379),
    # Envoy is what strangers talk to: it must not reach the port that changes counters.
    (ENVOY, LIMITADOR, 8080),
    (ENVOY, RATELIMIT, 6070),
    (AUTHORINO, REDIS, 6379),
    (SPARK, LIMITADOR, 8080),
    (CONTROLLER, AUTHORINO, 50051),
    (WORKER, LIMITADOR, 8080),
    (WORKER, REDIS, 6379),
]


@pytest.fixture(scope="module")
def policies() -> list[dict[str, Any]]:
    load_plugins()
    catalog = yaml.safe_load(
        """
        images: {redis: redis}
        charts: {kuadrant_operator: {}, envoy_gateway: {}}
        token_limits: envoy
        gateway:
          {name: g, namespace: token-labs, class: eg, address: null, host_addresses: [], http_port: 80,
           https_port: null,
           tls: null, redirect: false, cors: null, replicas: 1, node_selector: {}}
        redis: {own: true, host: redis, port: 6379, tls: false}
        limits_unavailable: allow
        observability: {namespace: monitoring}
        nodes: {controller: {role: controller, address: 192.168.1.10}, spark: {role: worker, address: 192.168.1.11}}
        """
    )
    found = [
        *documents("redis", catalog),
        *documents("gateway", catalog),
        *render("kuadrant", "__kuadrant_definitions", catalog),
        *render("envoy_gateway", "__envoy_gateway_definitions", catalog),
    ]
    return [each for each in found if each["kind"] == "NetworkPolicy"]


def selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, f"this test does not know {set(selector)}"
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def lets_in(rule: dict[str, Any], policy: dict[str, Any], source: Pod, port: int) -> bool:
    if not any(each["port"] == port for each in rule.get("ports") or [{"port": port}]):
        return False
    for peer in rule.get("from") or [{"namespaceSelector": {}}]:
        if "ipBlock" in peer:
            if source[1].get("address") and ip_address(source[1]["address"]) in ip_network(peer["ipBlock"]["cidr"]):
                return True
            continue
        space = {"kubernetes.io/metadata.name": source[0]}
        inside = (
            selected(peer["namespaceSelector"], space)
            if "namespaceSelector" in peer
            else source[0] == policy["metadata"]["namespace"]
        )
        if inside and selected(peer.get("podSelector") or {}, source[1]):
            return True
    return False


def reachable(policies: list[dict[str, Any]], source: Pod, target: Pod, port: int) -> bool:
    """As Kubernetes has it: a pod that no policy selects is open, any other takes what one of them lets in."""
    mine = [
        each
        for each in policies
        if each["metadata"]["namespace"] == target[0] and selected(each["spec"]["podSelector"], target[1])
    ]
    return not mine or any(lets_in(rule, each, source, port) for each in mine for rule in each["spec"]["ingress"])


@pytest.mark.parametrize(("source", "target", "port"), OPEN)
def test_who_must_come_in_does(policies: list[dict[str, Any]], source: Pod, target: Pod, port: int) -> None:
    assert reachable(policies, source, target, port)


@pytest.mark.parametrize(("source", "target", "port"), SHUT)
def test_nobody_else_does(policies: list[dict[str, Any]], source: Pod, target: Pod, port: int) -> None:
    assert not reachable(policies, source, target, port)


def test_each_policy_is_needed(policies: list[dict[str, Any]]) -> None:
    """Without any one of them somebody comes in who must not."""
    assert len(policies) == 5
    for gone in policies:
        rest = [copy.deepcopy(each) for each in policies if each is not gone]
        assert any(reachable(rest, *case) for case in SHUT), gone["metadata"]
