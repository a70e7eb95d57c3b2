# SPDX-License-Identifier: GPL-3.0-or-later
"""What breaks an installation, and what gateway.yml makes of it: mended, or a failure that says what is wrong."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.cluster import eventually, lab
from tests.scenarios.conftest import INVENTORY, Run, kubectl, playbook, run, run_and
from tests.scenarios.evidence import writes

pytestmark = pytest.mark.long

EG, AI, KUADRANT = "envoy-gateway-system", "envoy-ai-gateway-system", "kuadrant-system"
WEBHOOK = "envoy-ai-gateway-gateway-pod-mutator.envoy-ai-gateway-system"
ENVOY = "gateway.envoyproxy.io/owning-gateway-name=token-labs-gateway"
CERTIFICATE = "self-signed-cert-for-mutating-webhook"


@pytest.fixture(scope="module", autouse=True)
def platform() -> None:
    for name in ("cluster", "gateway", "inference"):
        result = playbook(name)
        assert result.code == 0, result.text[-4000:]


def gateway(*arguments: str) -> Run:
    return playbook("gateway", *arguments)


def converges() -> None:
    result = gateway()
    assert result.code == 0, result.text[-4000:]


def mended() -> None:
    """gateway.yml puts it right, and then has nothing to do."""
    converges()
    begun = time.time()
    again = gateway()
    assert again.code == 0, again.text[-4000:]
    assert writes(begun) == []


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
        "ratelimitpolicies.kuadrant.io",
        "--ignore-not-found",
    )
    # The webhook is asked about every Envoy pod, and none can be made now.
    kubectl("-n", EG, "delete", "pods", "-l", ENVOY)
    result = gateway("--check", "--diff")
    assert f"Deployment/{EG}/envoy-gateway is gone" in result.text
    assert f"Service/{AI}/ai-gateway-controller is gone" in result.text
    mended()
    assert get("service", "ai-gateway-controller", AI) and get("deployment", "envoy-gateway", EG)
    assert get("crd", "clienttrafficpolicies.gateway.envoyproxy.io")
    assert get("ratelimitpolicy", "token-labs-request-limits", "token-labs")
    envoys = json.loads(kubectl("-n", EG, "get", "pods", "-l", ENVOY, "-o", "json"))["items"]
    assert envoys and all(each["status"]["phase"] == "Running" for each in envoys)


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
    converges()
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


def certificate(host: str) -> dict[str, str]:
    """The data of a Secret with a certificate that ends in ten days."""
    folder = Path(os.environ["TOKENLABS_LAB"]) / "short"
    folder.mkdir(exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-subj", f"/CN={host[:60]}",
               "-addext", f"subjectAltName=DNS:{host}", "-keyout", folder / "key", "-out", folder / "crt"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    files = (("tls.crt", "crt"), ("ca.crt", "crt"), ("tls.key", "key"))
    return {name: base64.b64encode((folder / file).read_bytes()).decode() for name, file in files}


def replace(name: str, namespace: str, data: dict[str, str]) -> None:
    secret = get("secret", name, namespace)
    secret["data"] |= data
    kept = ("name", "namespace", "labels", "annotations")
    secret["metadata"] = {key: secret["metadata"][key] for key in kept if key in secret["metadata"]}
    put(secret)


def test_the_certificate_of_the_webhook_is_renewed() -> None:
    short = certificate(f"ai-gateway-controller.{AI}.svc")
    replace(CERTIFICATE, AI, short)
    kubectl("-n", AI, "rollout", "restart", "deployment", "ai-gateway-controller")
    shown = lambda: get("mutatingwebhookconfiguration", WEBHOOK)["webhooks"][0]["clientConfig"].get("caBundle")  # noqa: E731
    eventually("the webhook shows the short one", lambda: shown() == short["ca.crt"])

    page = " ".join(playbook("status").text.split())
    assert f"the certificate {AI}/{CERTIFICATE} ends in 9 days" in page and "gateway.yml renews it" in page
    result = gateway("--check", "--diff")
    assert f"Secret {CERTIFICATE}: its certificate ends 20" in result.text
    mended()
    renewed = get("secret", CERTIFICATE, AI)["data"]
    assert renewed["tls.crt"] != short["tls.crt"] and shown() == renewed["ca.crt"]
    assert short["tls.key"] not in result.text
    # Envoy pods can be made, which the webhook has to let in.
    kubectl("-n", EG, "delete", "pods", "-l", ENVOY)
    mended()


def test_what_the_page_says_of_envoy_gateways_certificates_works() -> None:
    """They live for five years. Renewing them starts Envoy anew, so nobody does it unasked."""
    short = certificate(f"envoy-gateway.{EG}.svc")
    replace("envoy-gateway", EG, short)
    page = playbook("status").text
    assert f"the certificate {EG}/envoy-gateway ends in 9 days" in page
    remedy = next(line for line in page.splitlines() if "--overwrite" in line)
    renew, restart, after = re.findall(
        r"playbooks/gateway.yml --tags .*?}}}}'|kubectl -n .*?(?=,)|playbooks/gateway.yml$", remedy
    )
    assert run("bash", "-c", f"ansible-playbook -i {INVENTORY} {renew}").code == 0
    assert run("bash", "-c", restart).code == 0 and after == "playbooks/gateway.yml"
    mended()
    assert get("secret", "envoy-gateway", EG)["data"]["tls.crt"] != short["tls.crt"]
    assert "ends in 9 days" not in playbook("status").text


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


@pytest.mark.parametrize(
    ("task", "part"),
    [("crds : Apply", "etcd"), ("envoy_gateway : Install", "kube-apiserver"), ("policies : Bring", "etcd")],
)
def test_the_api_is_away_for_a_moment(task: str, part: str) -> None:
    """It is killed in the middle of the work, and comes back: waited for, or told. The next run finishes the job."""
    kubectl("-n", EG, "delete", "deployment", "envoy-gateway")
    kubectl("-n", "token-labs", "delete", "ratelimitpolicy", "token-labs-request-limits")
    result = run_and("gateway", lambda line: f".{task}" in line, lambda: lab("fault", "crash", part))
    if result.code:
        said = result.text[result.text.index("fatal: ") :]
        print(said)
        assert re.search("refused|unreachable|Unreachable|etcd|timed out|reset|503|429|EOF", said), said
        assert "Traceback" not in said
    converges()


def test_then_nothing_is_left_to_do() -> None:
    mended()
