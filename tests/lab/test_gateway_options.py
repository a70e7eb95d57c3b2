# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the gateway: tokens of an issuer, HTTPS, web pages, counters elsewhere and counters that are away."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from lab.world.pki import issue
from tests.issuer import Issuer
from tests.lab.gateway_harness import (
    GATEWAY,
    KUADRANT,
    REDIS_PASSWORD,
    Doc,
    Lab,
    Make,
    b64,
    chat,
    costing,
    deployment,
    free_port,
    meta,
    route_doc,
)
from tests.lab.test_gateway_guarantees import (
    CHAT,
    MODELS,
    SPEC,
    Documents,
    every_token,
    no_key,
    platform,
    put,
    tokens_of,
)
from tests.lab.test_gateway_verdicts import away_from_the_minute

pytest_plugins = ["tests.lab.gateway_fixtures"]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    found = Issuer()
    yield found
    found.close()


def with_issuer(lab: Lab, issuer: Issuer) -> Lab:
    oidc = {"issuer": issuer.url, "tier_claim": "tier", "tenant_claim": "tenant"}
    return put(lab, platform(lab, replace(SPEC, oidc=oidc)))


def test_a_token_is_as_good_as_a_key_and_counts_for_its_tenant(make: Make, issuer: Issuer) -> None:
    away_from_the_minute()
    lab = with_issuer(make(), issuer)
    token = issuer.token()
    assert lab.spend(100, token).status == 200
    assert tokens_of(lab, "jane") == 100
    assert lab.models["small"].stats.foreign_credentials == 0
    assert lab.models["small"].stats.last_tenant == "jane"
    # The tier of the claim decides: this one is limited as its tier is, and kept to its models.
    assert lab.chat(token, model="large").status == 403
    assert lab.chat(issuer.token(tier="pro"), model="large").status == 200
    assert [lab.ask(MODELS, key=token).status for _ in range(11)] == [200] * 10 + [429]
    # Keys work beside it as before.
    every_token(lab)
    no_key(make_again(make))


def make_again(make: Make) -> Lab:
    lab = make()
    return put(lab, platform(lab))


def test_a_token_that_is_not_right_is_refused(make: Make, issuer: Issuer) -> None:
    lab = with_issuer(make(), issuer)
    stranger = rsa.generate_private_key(65537, 2048)
    good = issuer.token()
    refused = {
        "another signer": issuer.token(stranger),
        "another issuer": issuer.token(iss="http://127.0.0.1:1"),
        "expired": issuer.token(exp=time.time() - 1),
        "without an end": issuer.token(exp=None),
        "not yet": issuer.token(nbf=time.time() + 3600),
        "no algorithm": issuer.token(head={"alg": "none"}),
        "an unknown key": issuer.token(head={"kid": "b"}),
        "without a signature": good.rpartition(".")[0] + ".",
        "changed": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "no tier": issuer.token(tier=None),
        "no tenant": issuer.token(tenant=None),
        "not a token": "eyJ.x",
    }
    assert {name: lab.chat(token).status for name, token in refused.items()} == dict.fromkeys(refused, 401)
    unknown = {
        "unknown tier": issuer.token(tier="gold"),
        "two tiers": issuer.token(tier=["free", "pro"]),
        "malformed tenant": issuer.token(tenant="Jane Doe"),
        "empty tenant": issuer.token(tenant=""),
    }
    assert {name: lab.chat(token).status for name, token in unknown.items()} == dict.fromkeys(unknown, 403)
    assert lab.models["small"].stats.requests == 0


def test_without_the_option_tokens_are_nothing(make: Make, issuer: Issuer) -> None:
    lab = make()
    assert put(lab, platform(lab)).chat(issuer.token()).status == 401


def test_an_issuer_that_is_away_keeps_its_tokens_out_and_keys_in(make: Make, issuer: Issuer) -> None:
    lab = make()
    oidc = {"issuer": f"http://127.0.0.1:{free_port()}", "tier_claim": "tier", "tenant_claim": "tenant"}
    put(lab, platform(lab, replace(SPEC, oidc=oidc)))
    assert lab.chat(issuer.token(iss=oidc["issuer"])).status == 401
    assert lab.chat("key-pro").status == 200


# --- web pages --------------------------------------------------------------------------------------------------------

ORIGIN = "https://chat.example.com"


def with_cors(lab: Lab) -> Documents:
    documents = platform(lab)
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}
    cors = {
        "allowOrigins": [ORIGIN],
        "allowMethods": ["GET", "POST", "OPTIONS"],
        "allowHeaders": ["Authorization", "Content-Type"],
        "exposeHeaders": ["Retry-After"],
        "maxAge": "1h",
    }
    documents["SecurityPolicy", "cors"] = {"metadata": meta("cors"), "spec": {"targetRefs": [target], "cors": cors}}
    return documents


def preflight(lab: Lab, origin: str, **more: Any) -> Any:
    headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
    return lab.ask(CHAT, method="OPTIONS", headers=headers, **more)


def test_a_page_may_ask_and_nothing_opens(make: Make) -> None:
    lab = make()
    put(lab, with_cors(lab))
    asked = preflight(lab, ORIGIN)
    assert asked.status == 200
    assert asked.header("access-control-allow-origin") == ORIGIN
    assert asked.header("access-control-allow-headers") == "Authorization, Content-Type"
    assert asked.header("access-control-max-age") == "3600"
    assert asked.body == b""
    # Its request needs a key like any other, and the page may read the answer, good or bad.
    for key, status in (("key-pro", 200), (None, 401)):
        answer = lab.ask(CHAT, chat(), key=key, headers=[("Origin", ORIGIN)])
        assert (answer.status, answer.all("access-control-allow-origin")) == (status, [ORIGIN])
    assert lab.models["small"].stats.requests == 1


def test_other_pages_and_other_methods_get_nothing(make: Make) -> None:
    lab = make()
    put(lab, with_cors(lab))
    for origin in ("https://evil.example.com", ORIGIN + ".evil.example", "null", ""):
        asked = preflight(lab, origin)
        assert asked.status == 401, origin
        assert asked.header("access-control-allow-origin") is None
    plain = lab.ask(CHAT, method="OPTIONS", headers=[("Origin", ORIGIN)])
    assert plain.status == 401
    without = make()
    put(without, platform(without))
    assert preflight(without, ORIGIN).status == 401


# --- HTTPS ------------------------------------------------------------------------------------------------------------


def with_https(lab: Lab, port: int, redirect: bool = False) -> Documents:
    documents = platform(lab)
    pair = issue("api.example.com", 1)
    reference = {"group": "", "kind": "Secret", "name": "tls"}
    listener = {"name": "https", "port": port, "protocol": "HTTPS", "tls": {"certificateRefs": [reference]}}
    documents["Gateway", GATEWAY]["spec"]["listeners"].append(listener)
    data = {name: base64.b64encode(value).decode() for name, value in pair.items()}
    documents["Secret", "tls"] = {"metadata": meta("tls"), "data": data}
    if redirect:
        for kind, name in [key for key in documents if key[0] == "HTTPRoute"]:
            documents[kind, name]["spec"]["parentRefs"][0]["sectionName"] = "https"
            documents[kind, name]["status"]["parents"][0]["parentRef"]["sectionName"] = "https"
        moved = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "port": port, "statusCode": 301}}
        document = route_doc("https-redirect", [{"filters": [moved]}])
        document["spec"]["parentRefs"][0]["sectionName"] = "http"
        documents["HTTPRoute", "https-redirect"] = document
    return documents


def https(port: int, pem: str, path: str, key: str | None) -> int:
    """A request by a client that knows the authority, and asks for the name in the certificate."""
    context = ssl.create_default_context(cadata=pem)
    plain = socket.create_connection(("127.0.0.1", port), timeout=5)
    with plain, context.wrap_socket(plain, server_hostname="api.example.com") as sock:
        head = f"GET {path} HTTP/1.1\r\nHost: API.EXAMPLE.COM\r\nConnection: close\r\n"
        sock.sendall((head + (f"Authorization: Bearer {key}\r\n" if key else "") + "\r\n").encode())
        return int(sock.recv(65536).split()[1])


@pytest.mark.parametrize("redirect", [False, True], ids=["both", "redirected"])
def test_https_is_real_and_as_closed_as_http(make: Make, redirect: bool) -> None:
    lab, port = make(), free_port()
    documents = with_https(lab, port, redirect)
    put(lab, documents)
    authority = base64.b64decode(documents["Secret", "tls"]["data"]["ca.crt"]).decode()
    assert https(port, authority, MODELS, "key-pro") == 200
    assert https(port, authority, MODELS, None) == 401
    other = issue("api.example.com", 1)["ca.crt"].decode()
    with pytest.raises(ssl.SSLCertVerificationError):
        https(port, other, MODELS, "key-pro")
    with pytest.raises((OSError, AssertionError)):
        lab_port, lab.port = lab.port, port
        try:
            assert lab.ask(MODELS, key="key-pro").status == 200, "plain text was answered"
        finally:
            lab.port = lab_port
    answer = lab.ask(f"{MODELS}?x=1", key="key-pro")
    if redirect:
        assert answer.status == 301
        assert answer.header("location") == f"https://gateway.test:{port}{MODELS}?x=1"
        assert lab.ask(MODELS).status == 401
    else:
        assert answer.status == 200


# --- without counters -------------------------------------------------------------------------------------------------


def failure_mode(mode: str) -> tuple[str, Doc]:
    operator = deployment("kuadrant-operator-controller-manager", KUADRANT)
    env = [
        {"name": name, "value": mode}
        for name in ("RATELIMIT_SERVICE_FAILURE_MODE", "RATELIMIT_CHECK_SERVICE_FAILURE_MODE")
    ]
    operator["spec"]["template"] = {"spec": {"containers": [{"name": "manager", "env": env}]}}
    return ("Deployment", operator)


@pytest.mark.parametrize(("mode", "status"), [("allow", 200), ("deny", 500)])
def test_limitador_away_as_the_option_says(make: Make, mode: str, status: int) -> None:
    lab = make()
    put(lab, platform(lab))
    lab.put(failure_mode(mode))
    assert lab.ask(MODELS, key="key-acme").status == 200
    lab.put(("Deployment", deployment("limitador-limitador", KUADRANT, replicas=0, labels={"app": "limitador"})))
    assert lab.ask(MODELS, key="key-acme").status == status
    # Keys are asked for in any case.
    assert lab.ask(MODELS, key="key-wrong").status == 401


def test_counters_over_tls(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis outside, spoken to by TLS: with a certificate that nobody vouches for it is not spoken to at all."""
    away_from_the_minute(10)
    pair, port = issue("127.0.0.1", 1), free_port()
    for name, value in pair.items():
        (tmp_path / name).write_bytes(value)
    config = f"bind 127.0.0.1\nport 0\ntls-port {port}\ntls-auth-clients no\nsave ''\nrequirepass {REDIS_PASSWORD}\n"
    config += "".join(
        f"tls-{what}-file {tmp_path}/{name}\n"
        for what, name in (("cert", "tls.crt"), ("key", "tls.key"), ("ca-cert", "ca.crt"))
    )
    (tmp_path / "redis.conf").write_text(config)
    server = subprocess.Popen(["redis-server", str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.05)
        for trusted in (False, True):
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
            lab = make()
            documents = platform(lab)
            url = f"rediss://:{REDIS_PASSWORD}@127.0.0.1:{port}/1"
            documents["Secret", "limitador-redis"]["data"]["URL"] = b64(url)
            text = documents["ConfigMap", "envoy-gateway-config"]["data"]["envoy-gateway.yaml"]
            changed = text.replace(
                "url: redis.redis-system.svc.cluster.local:6379", f"url: 127.0.0.1:{port}\n      tls: {{}}"
            )
            assert changed != text
            documents["ConfigMap", "envoy-gateway-config"]["data"]["envoy-gateway.yaml"] = changed
            put(lab, documents)
            statuses = [lab.ask(MODELS, key="key-acme").status for _ in range(11)]
            assert statuses == [200] * 10 + [429 if trusted else 200]
            assert lab.ask(CHAT, costing(50001), key="key-pro").status == 200
            assert lab.chat("key-pro").status == (429 if trusted else 200)
    finally:
        server.terminate()
        server.wait(10)


def test_switching_who_counts_tokens_leaves_no_gap(make: Make) -> None:
    """New first, then the old away, as the module does it: at every step a tenant over his limit stays out."""
    away_from_the_minute(20)
    lab = make()
    envoy, kuadrant = platform(lab), platform(lab, replace(SPEC, token_limits="kuadrant"))
    put(lab, envoy)
    name = "token-labs-token-limits"
    for old, new, documents in (
        ("BackendTrafficPolicy", "TokenRateLimitPolicy", kuadrant),
        ("TokenRateLimitPolicy", "BackendTrafficPolicy", envoy),
    ):
        lab.redis.command("FLUSHALL")
        lab.redis.command("FLUSHALL", database=1)
        lab.put((new, documents[new, name]))
        assert lab.chat(None).status == 401
        # Both are there for a moment; each counts.
        assert lab.spend(5001, "key-acme").status == 200
        assert lab.chat("key-acme").status == 429
        lab.remove(old, name)
        assert lab.chat("key-acme").status == 429
        assert lab.chat("key-other").status == 200
        assert lab.chat(None).status == 401
