# SPDX-License-Identifier: GPL-3.0-or-later
"""What breaks an installation, and what gateway.yml makes of it: mended, or a failure that says what is wrong."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import eventually, lab
from tests.scenarios.conftest import Run, kubectl, playbook
from tests.scenarios.evidence import writes

pytestmark = pytest.mark.long

EG, AI, KUADRANT = "envoy-gateway-system", "envoy-ai-gateway-system", "kuadrant-system"
WEBHOOK = "envoy-ai-gateway-gateway-pod-mutator.envoy-ai-gateway-system"
CERTIFICATE = "self-signed-cert-for-mutating-webhook"


@pytest.fixture(scope="module", autouse=True)
def platform() -> None:
    for name in ("cluster", "gateway", "inference"):
        result = playbook(name)
        assert result.code == 0, result.text[-4000:]


def gateway(*arguments: str) -> Run:
    return playbook("gateway", *arguments)


def mended(*arguments: str) -> None:
    """gateway.yml puts it right, and then has nothing to do."""
    result = gateway(*arguments)
    assert result.code == 0, result.text[-4000:]
    begun = time.time()
    again = gateway(*arguments)
    assert again.code == 0 and writes(begun) == [], writes(begun)


def get(kind: str, name: str, namespace: str = "") -> dict[str, Any]:
    inside = ["-n", namespace] if namespace else []
    return json.loads(kubectl(*inside, "get", kind, name, "-o", "json"))


def put(body: dict[str, Any], verb: str = "apply") -> None:
    file = Path(os.environ["TOKENLABS_LAB"]) / "object.json"
    file.write_text(json.dumps(body))
    options = ["--server-side", "--force-conflicts", "--field-manager=helm"] if verb == "apply" else []
    kubectl(verb, "-f", str(file), *options)


def test_what_charts_have_made_and_somebody_deleted_comes_back() -> None:
    """A controller, a webhook without its Service, and an operator: one of each chart."""
    kubectl("-n", EG, "delete", "deployment", "envoy-gateway")
    kubectl("-n", AI, "delete", "service", "ai-gateway-controller")
    kubectl("-n", KUADRANT, "delete", "deployment", "limitador-operator-controller-manager")
    kubectl(
        "delete",
        "crd",
        "mcproutes.aigateway.envoyproxy.io",
        "clienttrafficpolicies.gateway.envoyproxy.io",
        "--ignore-not-found",
    )
    result = gateway("--check", "--diff")
    assert f"Deployment/{EG}/envoy-gateway is gone" in result.text
    assert f"Service/{AI}/ai-gateway-controller is gone" in result.text
    mended()
    assert get("service", "ai-gateway-controller", AI) and get("deployment", "envoy-gateway", EG)
    assert get("crd", "clienttrafficpolicies.gateway.envoyproxy.io")


@pytest.mark.parametrize("status", ["pending-install", "pending-upgrade"])
def test_a_release_that_helm_did_not_finish(status: str) -> None:
    """helm was killed: its record says that it is at work, for ever."""
    name = "eg"
    listed = json.loads(kubectl("-n", EG, "get", "secrets", "-l", f"owner=helm,name={name}", "-o", "json"))["items"]
    last = max(listed, key=lambda each: int(each["metadata"]["labels"]["version"]))
    number = int(last["metadata"]["labels"]["version"]) + 1
    told = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(last["data"]["release"]))))
    told["info"]["status"], told["version"] = status, number
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(told).encode()))).decode()
    labels = {**last["metadata"]["labels"], "status": status, "version": str(number)}
    put({"apiVersion": "v1", "kind": "Secret", "type": "helm.sh/release.v1", "data": {"release": packed},
         "metadata": {"name": f"sh.helm.release.v1.{name}.v{number}", "namespace": EG, "labels": labels}})  # fmt: skip
    mended()
    kubectl("-n", EG, "delete", "deployment", "envoy-gateway")
    mended()


def test_an_operator_that_missed_a_dependency_is_started_again() -> None:
    """It looks for the definitions of Envoy Gateway once, when it starts."""
    kubectl("delete", "crd", "envoypatchpolicies.gateway.envoyproxy.io")
    kubectl("-n", KUADRANT, "rollout", "restart", "deployment", "kuadrant-operator-controller-manager")

    def reason() -> str:
        conditions = get("kuadrant", "kuadrant", KUADRANT).get("status", {}).get("conditions", [])
        return " ".join(each["reason"] for each in conditions)

    eventually("Kuadrant misses Envoy Gateway", lambda: "MissingDependency" in reason())
    mended()
    assert "MissingDependency" not in reason()


def test_the_certificate_of_the_webhook_is_renewed() -> None:
    folder = Path(os.environ["TOKENLABS_LAB"]) / "short"
    folder.mkdir(exist_ok=True)
    host = f"ai-gateway-controller.{AI}.svc"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-subj", f"/CN={host}",
               "-addext", f"subjectAltName=DNS:{host}", "-keyout", folder / "key", "-out", folder / "crt"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    secret = get("secret", CERTIFICATE, AI)
    texts = {name: base64.b64encode((folder / file).read_bytes()).decode() for name, file in
             (("tls.crt", "crt"), ("ca.crt", "crt"), ("tls.key", "key"))}  # fmt: skip
    secret["data"] |= texts
    secret["metadata"] = {key: secret["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    put(secret)
    kubectl("-n", AI, "rollout", "restart", "deployment", "ai-gateway-controller")
    shown = lambda: get("mutatingwebhookconfiguration", WEBHOOK)["webhooks"][0]["clientConfig"].get("caBundle")  # noqa: E731
    eventually("the webhook shows the short one", lambda: shown() == texts["ca.crt"])

    result = gateway("--check", "--diff")
    assert f"Secret {CERTIFICATE}: its certificate ends 20" in result.text
    mended()
    renewed = get("secret", CERTIFICATE, AI)["data"]
    assert renewed["tls.crt"] != texts["tls.crt"] and shown() == renewed["ca.crt"]
    assert texts["tls.key"] not in result.text
    # Envoy pods can be made, which the webhook has to let in.
    kubectl("-n", EG, "delete", "pods", "-l", "gateway.envoyproxy.io/owning-gateway-name=token-labs-gateway")
    mended()


def test_a_source_of_charts_that_is_down() -> None:
    lab("fault", "hold", "registry")
    try:
        # What is installed and right needs none.
        begun = time.time()
        assert gateway().code == 0 and writes(begun) == []
        result = gateway("-e", "tokenlabs_release=2026.08")
        said = " ".join(result.text.split())
        assert result.code == 2
        assert "gateway-crds-helm v1.8.3" in said and "3 times" in said and "tokenlabs_mirrors" in said
    finally:
        lab("fault", "crash", "registry")


def test_an_operator_that_never_gets_ready_is_named() -> None:
    lab("fault", "pods_never_ready", "kuadrant-operator")
    kubectl("-n", KUADRANT, "rollout", "restart", "deployment", "kuadrant-operator-controller-manager")
    try:
        result = gateway("-e", "kuadrant_timeout=15")
        said = " ".join(result.text.split())
        assert result.code == 2 and f"Deployment/{KUADRANT}/kuadrant-operator-controller-manager" in said
        assert "replicas" in said
    finally:
        lab("fault", "clear", "platform")
    mended()


def test_a_policy_that_is_not_enforced_is_named_with_its_message() -> None:
    """As one with a bad predicate: accepted, and not enforced."""
    lab("fault", "policy_never_enforced", "token-labs-request-limits")
    try:
        result = playbook("inference", "-e", "policies_timeout=15")
        said = " ".join(result.text.split())
        assert result.code == 2 and "RateLimitPolicy/token-labs/token-labs-request-limits" in said
        assert "Enforced" in said
    finally:
        lab("fault", "clear", "platform")
    assert playbook("inference").code == 0


def test_the_api_is_away_for_a_moment() -> None:
    """etcd is killed while the definitions are applied, and comes back."""
    kubectl("-n", EG, "delete", "deployment", "envoy-gateway")
    lab("fault", "crash", "etcd")
    mended()
