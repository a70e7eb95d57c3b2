# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking the platform down: nothing is left but what was asked to stay, and the gateway is never open on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.scenarios.conftest import kubectl, playbook
from tests.scenarios.keyless import address, ask, keyless_client

pytestmark = pytest.mark.long

NAMESPACES = ["token-labs", "envoy-gateway-system", "envoy-ai-gateway-system", "kuadrant-system", "redis-system"]


def namespaces() -> set[str]:
    return set(kubectl("get", "namespaces", "-o", "name").replace("namespace/", "").split())


def left_of_the_platform() -> list[str]:
    """Cluster-wide objects with the names of what was installed."""
    kinds = "customresourcedefinitions,mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles"
    names = kubectl("get", f"{kinds},clusterrolebindings", "-o", "name").split()
    marks = ("envoy", "kuadrant", "authorino", "limitador", "gateway", "inference", "llm-d", "aieg")
    return [name for name in names if any(mark in name for mark in marks)]


def key() -> Path:
    return Path(os.environ["TOKENLABS_LAB"]) / "credentials" / "demo-pro.key"


@pytest.fixture(scope="module", autouse=True)
def platform() -> None:
    result = playbook("site")
    assert result.code == 0, result.text[-4000:]


def test_without_confirmation_nothing_goes() -> None:
    result = playbook("teardown")
    assert result.code == 2 and "Nothing was removed" in result.text and "confirm=teardown" in result.text
    result = playbook("teardown", "-e", "confirm=teardown", "-e", "keep=tenant")
    assert result.code == 2 and "keep=tenant: tenant cannot be kept" in " ".join(result.text.split())
    assert set(NAMESPACES) <= namespaces()


def test_what_others_use_is_not_taken_from_them() -> None:
    kubectl("create", "namespace", "others")
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "theirs", "namespace": "others"},
        "spec": {"parentRefs": [{"name": "their-gateway"}]},
    }
    file = Path(os.environ["TOKENLABS_LAB"]) / "theirs.json"
    file.write_text(json.dumps(route))
    kubectl("apply", "-f", str(file))
    result = playbook("teardown", "-e", "confirm=teardown")
    assert result.code == 2 and "HTTPRoute/others/theirs" in result.text
    assert set(NAMESPACES) <= namespaces()
    kubectl("delete", "namespace", "others")


def test_it_closes_before_it_goes_and_keeps_what_was_asked() -> None:
    before = key().read_text().strip()
    host = address()
    with keyless_client(host) as seen:
        result = playbook("teardown", "-e", "confirm=teardown", "-e", "keep=tenants")
    assert result.code == 0, result.text[-4000:]
    assert seen[401] > 0, "the client was never answered, so it proves nothing"
    assert seen[200] == 0, seen
    assert namespaces().isdisjoint(set(NAMESPACES) - {"kuadrant-system"})
    assert left_of_the_platform() == []
    assert "demo-pro" in kubectl("-n", "kuadrant-system", "get", "secrets", "-o", "name")

    again = playbook("teardown", "-e", "confirm=teardown", "-e", "keep=tenants")
    assert again.code == 0 and again.changed == 0, again.text[-2000:]

    # The platform comes back with the same keys, and is closed all the while.
    with keyless_client(host) as seen:
        result = playbook("site")
    assert result.code == 0, result.text[-4000:]
    assert seen[401] > 0 and seen[200] == 0, seen
    assert key().read_text().strip() == before
    headers = {"Authorization": f"Bearer {before}"}
    assert ask(address(), "GET", "/v1/models", headers) == 200


def test_finalizers_of_a_dead_controller_hold_nothing_up() -> None:
    kubectl("-n", "envoy-ai-gateway-system", "scale", "deployment", "ai-gateway-controller", "--replicas=0")
    kubectl("-n", "envoy-gateway-system", "scale", "deployment", "envoy-gateway", "--replicas=0")
    short = ["-e", "llm_d_timeout=5", "-e", "gateway_timeout=20"]
    with keyless_client(address()) as seen:
        result = playbook("teardown", "-e", "confirm=teardown", *short)
    assert result.code == 0, result.text[-4000:]
    assert "aigateway.envoyproxy.io/finalizer" in result.text
    assert seen[200] == 0, seen
    assert namespaces().isdisjoint(NAMESPACES)
    assert left_of_the_platform() == []
