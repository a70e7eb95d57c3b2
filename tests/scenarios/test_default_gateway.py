# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway on a finished platform: counters over restarts, another way to count, HTTPS, and back."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from redis import Redis
from redis.exceptions import RedisError

from lab import pki
from lab.paths import OUTSIDE
from tests.issuer import Issuer
from tests.ports import free_port
from tests.scenarios.conftest import Run, kubectl, playbook
from tests.scenarios.evidence import state

KEYS = Path(os.environ.get("TOKENLABS_LAB", "/")) / "credentials"
MODEL = "nvidia/Llama-3.1-Nemotron-Nano-8B-v1"
CHANGED = re.compile(r"\bchanged=[1-9]")
HTTPS = {
    "tls": {"self_signed": ["api.example.com"]},
    "http": "redirect",
    "cors": {"origins": ["https://chat.example.com"]},
}


def key(tenant: str) -> str:
    return (KEYS / f"{tenant}.key").read_text().strip()


@pytest.fixture(scope="module")
def address() -> str:
    found = "jsonpath={.status.addresses[0].value}"
    return kubectl("-n", "token-labs", "get", "gateway", "token-labs-gateway", "-o", found)


def send(
    connection: http.client.HTTPConnection, path: str, with_key: str | None, **more: Any
) -> http.client.HTTPResponse:
    headers = {"Authorization": f"Bearer {with_key}"} if with_key else {}
    body = json.dumps(more["json"]) if "json" in more else None
    try:
        connection.request("POST" if body else "GET", path, body=body, headers={**headers, **more.get("headers", {})})
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()


def ask(address: str, path: str, with_key: str | None, **more: Any) -> http.client.HTTPResponse:
    return send(http.client.HTTPConnection(address, timeout=10), path, with_key, **more)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, **more}


def test_a_restart_of_redis_or_limitador_loses_no_count(address: str) -> None:
    """Within the minute of the limit: what answers after the restart must know what was counted before."""
    mine = key("demo-free-2")
    left = 60 - time.time() % 60
    started = time.monotonic()
    while ask(address, "/v1/models", mine).status == 200:
        assert time.monotonic() - started < 20
    for kind, name, namespace in (
        ("statefulset", "redis", "redis-system"),
        ("deployment", "limitador-limitador", "kuadrant-system"),
    ):
        selector = "app.kubernetes.io/name=redis" if kind == "statefulset" else "app=limitador"
        kubectl("-n", namespace, "delete", "pod", "-l", selector, "--wait=true", "--grace-period=1")
        kubectl("-n", namespace, "rollout", "status", kind, name, "--timeout=60s")
    while True:
        answer = ask(address, "/v1/models", mine)
        if answer.status == 429:
            break
        assert answer.status == 200
        # An answer that tells of limits has been counted: then the counts of before were gone.
        assert answer.headers.get("x-ratelimit-limit") is None or left < time.monotonic() - started
        assert time.monotonic() - started < 59, "the minute was over before Limitador was back"
        time.sleep(0.5)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "60"


@contextmanager
def watched(address: str) -> Iterator[Counter[tuple[str, int]]]:
    """What strangers and a customer get all the while, five times a second."""
    seen: Counter[tuple[str, int]] = Counter()
    over = threading.Event()
    mine = key("demo-enterprise")

    def watch() -> None:
        while not over.wait(0.2):
            for who, used in (("stranger", None), ("customer", mine)):
                try:
                    seen[who, ask(address, "/v1/chat/completions", used, json=chat()).status] += 1
                except (OSError, http.client.HTTPException):
                    seen[who, 0] += 1

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def run(tmp_path: Path, *names: str, **variables: Any) -> list[Run]:
    given = tmp_path / "variables.json"
    given.write_text(json.dumps(variables))
    done = [playbook(name, "-e", f"@{given}") for name in names]
    assert [each.code for each in done] == [0] * len(done), "\n".join(each.text[-3000:] for each in done)
    return done


@pytest.mark.long
def test_who_counts_tokens_can_be_changed_and_changed_back(address: str, tmp_path: Path) -> None:
    for way in ("kuadrant", "envoy"):
        with watched(address) as seen:
            run(tmp_path, "gateway", "inference", tokenlabs_token_limits=way)
        strangers = {status for who, status in seen if who == "stranger"}
        customers = {status for who, status in seen if who == "customer"}
        assert strangers == {401}, seen
        assert customers == {200}, seen
        kinds = {"kuadrant": "tokenratelimitpolicies", "envoy": "backendtrafficpolicies.gateway.envoyproxy.io"}
        there = {
            each: "token-labs-token-limits" in kubectl("-n", "token-labs", "get", kind, "-o", "name")
            for each, kind in kinds.items()
        }
        assert there == {"kuadrant": way == "kuadrant", "envoy": way == "envoy"}
        assert not CHANGED.search(run(tmp_path, "gateway", tokenlabs_token_limits=way)[0].text)


@pytest.mark.long
def test_https_comes_and_goes(address: str, tmp_path: Path) -> None:
    with watched(address) as seen:
        run(tmp_path, "gateway", "inference", tokenlabs_gateway=HTTPS)
    assert {status for who, status in seen if who == "stranger"} <= {401, 0}, seen
    data = json.loads(kubectl("-n", "token-labs", "get", "secret", "token-labs-gateway-tls", "-o", "jsonpath={.data}"))
    context = ssl.create_default_context(cadata=base64.b64decode(data["tls.crt"]).decode())

    def ask_https(with_key: str | None, **more: Any) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection("api.example.com", timeout=10, context=context)
        connection._create_connection = lambda _, *rest: socket.create_connection((address, 443), *rest)  # type: ignore[attr-defined]
        return send(connection, "/v1/models", with_key, **more)

    mine = key("demo-pro")
    assert ask_https(mine).status == 200
    assert ask_https(None).status == 401
    moved = ask(address, "/v1/models?x=1", mine)
    assert (moved.status, moved.headers["location"]) == (301, f"https://{address}/v1/models?x=1")
    assert ask(address, "/v1/models", None).status == 401
    page = {"Origin": "https://chat.example.com"}
    assert ask_https(mine, headers=page).headers["access-control-allow-origin"] == page["Origin"]
    assert ask_https(mine, headers={"Origin": "https://else.example"}).headers["access-control-allow-origin"] is None
    again = run(tmp_path, "gateway", "inference", "verify", tokenlabs_gateway=HTTPS)
    # The last one has noted that these settings are proved now.
    assert not any(CHANGED.search(each.text) for each in again[:2])
    run(tmp_path, "gateway", "inference")
    assert ask(address, "/v1/models", mine).status == 200
    with pytest.raises(OSError):
        ask_https(mine)


# --- a Redis and an identity provider of one's own, both beyond the cluster -------------------------------------------

PASSWORD = "a-password-of-the-one-outside"


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """Certificate and key of a server outside, signed by the authority that everybody knows there."""
    folder = state() / "pki"
    private = serialization.load_pem_private_key((folder / "internet.key").read_bytes(), None)
    authority = x509.load_pem_x509_certificate((folder / pki.INTERNET_CA).read_bytes())
    pair = pki.issue(pki.Pair(authority, private), OUTSIDE, ips=[OUTSIDE])  # type: ignore[arg-type]
    pki.write_private(tmp_path / "tls.crt", pair.cert_pem)
    pki.write_private(tmp_path / "tls.key", pair.key_pem)
    return tmp_path


@pytest.fixture
def issuer(shown: Path) -> Iterator[Issuer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown / "tls.crt", shown / "tls.key")
    found = Issuer(OUTSIDE, context)
    yield found
    found.close()


class Store:
    """A real Redis that takes TLS alone, and keeps what it is told over its own restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._config = folder / "redis.conf"
        self._config.write_text(
            f"bind {OUTSIDE}\nport 0\ntls-port {self.port}\ntls-auth-clients no\nrequirepass {PASSWORD}\n"
            f"tls-cert-file {folder}/tls.crt\ntls-key-file {folder}/tls.key\ndir {folder}\n"
            f"appendonly yes\nappendfsync always\nmaxmemory-policy noeviction\n"
        )
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._server = subprocess.Popen(["redis-server", self._config], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            try:
                self.client().ping()
                return
            except RedisError:
                assert time.monotonic() < end and self._server.poll() is None
                time.sleep(0.05)

    def stop(self) -> None:
        if self._server:
            self._server.terminate()
            self._server.wait(10)

    def client(self, database: int = 0) -> Redis:
        known = str(state() / "pki" / pki.INTERNET_CA)
        return Redis(OUTSIDE, self.port, database, PASSWORD, ssl=True, ssl_ca_certs=known)

    def counts(self, database: int) -> dict[str, int]:
        client = self.client(database)
        return {key.decode(): int(client.get(key) or 0) for key in client.scan_iter()}  # type: ignore[arg-type]


@pytest.fixture
def store(shown: Path) -> Iterator[Store]:
    found = Store(shown)
    found.start()
    yield found
    found.stop()


def eventually(address: str, with_key: str, status: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while (got := ask(address, "/v1/chat/completions", with_key, json=chat()).status) != status:
        assert time.monotonic() < end, f"still {got}, not {status}"
        time.sleep(0.5)


@pytest.mark.long
def test_counters_elsewhere_users_of_others_and_nothing_uncounted(
    address: str, tmp_path: Path, store: Store, issuer: Issuer
) -> None:
    options: dict[str, Any] = {
        "tokenlabs_redis": {"host": OUTSIDE, "port": store.port},
        "tokenlabs_redis_password": PASSWORD,
        "tokenlabs_oidc": {"issuer": issuer.url, "tier_claim": "tier", "tenant_claim": "tenant"},
        "tokenlabs_limits_unavailable": "deny",
    }
    mine = key("demo-pro")
    assert ask(address, "/v1/models", issuer.token()).status == 401
    with watched(address) as seen:
        run(tmp_path, "gateway", **options)
    assert {status for who, status in seen if who == "stranger"} == {401}, seen
    # Between two stores nobody can be counted; what cannot be counted may be refused now, and nothing else goes wrong.
    assert {status for who, status in seen if who == "customer"} <= {200, 500}, seen

    # Users of the identity provider: as good as a key, in the tier that they are said to be in.
    eventually(address, issuer.token(tenant="jane", tier="pro"), 200)
    refused = {
        "another signer": issuer.token(rsa.generate_private_key(65537, 2048)),
        "over": issuer.token(exp=time.time() - 1),
        "no tenant": issuer.token(tenant=None),
    }
    models = "/v1/models"
    assert {why: ask(address, models, token).status for why, token in refused.items()} == dict.fromkeys(refused, 401)
    assert ask(address, models, issuer.token(tier="gold")).status == 403
    token = issuer.token(tenant="joe", tier="free")
    answers = [ask(address, models, token).status for _ in range(21)]  # the minute may end once meanwhile
    assert set(answers) == {200, 429} and answers[:10] == [200] * 10, answers
    assert ask(address, models, mine).status == 200

    # Both count outside: tokens in the first database, requests in Limitador's own.
    tokens, requests = store.counts(0), store.counts(1)
    assert any("jane" in name for name in tokens) and any("demo-pro" in name for name in requests), (tokens, requests)
    day = {name: count for name, count in requests.items() if "86400" in name and "joe" in name}
    assert list(day.values()) == [answers.count(200)], requests

    again = run(tmp_path, "gateway", **options)
    assert not CHANGED.search(again[0].text)

    # While nobody can count, nobody is served; and the key is looked at first.
    store.stop()
    eventually(address, mine, 500)
    statuses = [ask(address, "/v1/chat/completions", used, json=chat()).status for used in (None, "wrong", mine)]
    assert statuses == [401, 401, 500]
    store.start()
    eventually(address, mine, 200)
    kept = store.counts(1)
    assert day.items() <= kept.items(), "a restart of Redis has lost counts"

    # And back to what the platform brings itself.
    run(tmp_path, "gateway")
    store.stop()
    eventually(address, mine, 200)
    assert ask(address, models, issuer.token()).status == 401
    assert not CHANGED.search(run(tmp_path, "gateway")[0].text)
