# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy in front of the API server that behaves, when told to, as a server or a network in trouble does.

TLS on both sides, with certificates of its own towards the client. What comes through is the API server's own answer,
byte by byte.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3

from lab import pki
from tests.integration.apiserver import ApiServer

COLLECTION = re.compile(r".*/secrets")
VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
KEPT = ("content-type", "retry-after", "warning")


@dataclass(frozen=True)
class Request:
    """What a client asks for; the verb is Kubernetes', with `continue` for every page of a list but the first.

    Reading anything but Secrets is `discover`.
    """

    verb: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None

    @classmethod
    def of(cls, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Request:
        parts = urlsplit(target)
        verb = VERBS.get(method, "get")
        if verb == "get" and "/secrets" not in parts.path:
            verb = "discover"
        elif verb == "get" and COLLECTION.fullmatch(parts.path):
            verb = "continue" if "continue" in parse_qs(parts.query) else "list"
        return cls(verb, method, target, headers, body)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Cut(Exception):
    """The connection ends without an answer."""


# A fault gives the answer, or None to let the API server give it.
Fault = Callable[[Request], Answer | None]


def status(code: int, reason: str, message: str = "as told", retry_after: int | None = None) -> Fault:
    """Answer with a Kubernetes Status."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    headers = {"content-type": "application/json"}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    answer = Answer(code, headers, json.dumps({**body, "code": code}).encode())
    return lambda request: answer


def cut(request: Request) -> Answer | None:
    raise Cut


def delay(seconds: float) -> Fault:
    return lambda request: time.sleep(seconds)


def first(action: Callable[[], Any]) -> Fault:
    """Let something happen before the request goes on."""

    def fault(request: Request) -> None:
        action()

    return fault


@dataclass
class Rule:
    """A fault for the requests of some verbs: not for the first `skip` of them, and then for `times` (None: all)."""

    fault: Fault
    verbs: frozenset[str]
    skip: int
    times: int | None
    late: bool


class Proxy(ThreadingHTTPServer):
    """Where it listens, what it was asked, and what it is to do wrong."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: ApiServer, directory: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        ca = pki.make_ca("proxy")
        serving = pki.issue(ca, "127.0.0.1", ips=["127.0.0.1"])
        files = {"ca.crt": ca.cert_pem, "server.crt": serving.cert_pem, "server.key": serving.key_pem}
        url = f"https://127.0.0.1:{self.server_port}"
        files["kubeconfig"] = pki.kubeconfig(url, ca, "client", pki.issue(ca, "client"))
        directory.mkdir(mode=0o700)
        for name, data in files.items():
            pki.write_private(directory / name, data)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(directory / "ca.crt"))
        context.load_cert_chain(directory / "server.crt", directory / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        # The handshake is left to the thread of the connection.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.kubeconfig = directory / "kubeconfig"
        self.seen: Counter[str] = Counter()
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._upstream = api.url
        self._pool = urllib3.PoolManager(
            ca_certs=str(api.pki / "ca.crt"),
            cert_file=str(api.pki / "admin.crt"),
            key_file=str(api.pki / "admin.key"),
            maxsize=32,
        )

    def on(self, *verbs: str, fault: Fault, skip: int = 0, times: int | None = None, late: bool = False) -> None:
        """From now on; a `late` fault takes the place of the answer after the server has done what was asked."""
        with self._lock:
            self._rules.append(Rule(fault, frozenset(verbs), skip, times, late))

    def heal(self) -> None:
        with self._lock:
            self._rules.clear()
            self.seen.clear()

    def answer(self, request: Request) -> Answer:
        rules = self._due(request)
        for rule in rules:
            if not rule.late and (answer := rule.fault(request)):
                return answer
        url = self._upstream + request.target
        got = self._pool.request(request.method, url, body=request.body, headers=request.headers, retries=False)
        for rule in rules:
            if rule.late and (answer := rule.fault(request)):
                return answer
        return Answer(got.status, {key: got.headers[key] for key in KEPT if key in got.headers}, got.data)

    def _due(self, request: Request) -> list[Rule]:
        due = []
        with self._lock:
            self.seen[request.verb] += 1
            for rule in self._rules:
                if request.verb not in rule.verbs:
                    continue
                if rule.skip:
                    rule.skip -= 1
                elif rule.times is None or rule.times > 0:
                    rule.times = None if rule.times is None else rule.times - 1
                    due.append(rule)
        return due

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is nothing to be told about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are written apart; without this each answer waits for the client's delayed ACK.
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Proxy

    def handle_one_request(self) -> None:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _serve(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length) if length else None
        kept = {key: self.headers[key] for key in ("accept", "content-type") if key in self.headers}
        try:
            answer = self.server.answer(Request.of(self.command, self.path, kept, body))
        except (Cut, urllib3.exceptions.HTTPError):
            # A reset, and not an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def running(api: ApiServer, directory: Path) -> Iterator[Proxy]:
    """A proxy without faults, until told otherwise; stopped at the end."""
    with Proxy(api, directory) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
