# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against a server that answers what it is told to."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    Kube,
    KubeError,
    Outcome,
    Resource,
    UnknownKind,
    in_parallel,
    retry_policy,
    title,
)

Answer = tuple[int, dict[str, str], bytes]


def answer(status: int = 200, body: Any = None, **headers: str) -> Answer:
    return status, {key.replace("_", "-"): value for key, value in headers.items()}, json.dumps(body or {}).encode()


def refusal(status: int, reason: str, message: str, **headers: str) -> Answer:
    return answer(status, {"kind": "Status", "status": "Failure", "reason": reason, "message": message}, **headers)


class Script:
    """Answers to give, in order, and the requests that were made."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str]] = []


@pytest.fixture
def script() -> Iterator[Script]:
    story = Script()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            story.requests.append((self.command, self.path))
            status, headers, body = story.answers.pop(0)
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PATCH = do_POST = do_DELETE = do

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    story.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield story
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def kube(script: Script) -> Kube:
    return Kube(urllib3.PoolManager(), script.url, lambda: [("Authorization", "Bearer x")], retries=retry_policy())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "status"), [("GET", 503), ("PATCH", 429), ("POST", 503), ("DELETE", 429)])
def test_every_method_waits_as_long_as_the_server_asks(script: Script, kube: Kube, method: str, status: int) -> None:
    script.answers = [refusal(status, "TooManyRequests", "later", Retry_After="1"), answer(body={"kind": "X"})]
    begun = time.monotonic()
    assert kube.request(method, "/x", body=None if method == "GET" else {}) == {"kind": "X"}
    assert time.monotonic() - begun >= 1
    assert len(script.requests) == 2


def test_a_connection_that_breaks_is_tried_again(script: Script, kube: Kube) -> None:
    script.answers = [(0, {}, b""), answer(body={"kind": "X"})]
    assert kube.apply("/x", {"kind": "X"}) == {"kind": "X"}


def test_patience_has_an_end(script: Script) -> None:
    script.answers = [refusal(429, "TooManyRequests", "later", Retry_After="0")] * 3
    kube = Kube(urllib3.PoolManager(), script.url, lambda: [], retries=retry_policy(attempts=2))  # type: ignore[attr-defined]
    with pytest.raises(KubeError, match="later") as caught:
        kube.apply("/x", {})
    assert caught.value.status == 429
    assert script.answers == []


def test_a_server_cannot_ask_for_hours() -> None:
    response = urllib3.HTTPResponse(status=429, headers={"Retry-After": "7200"})
    assert retry_policy(longest=30).get_retry_after(response) == 30


def test_other_failures_are_not_repeated(script: Script, kube: Kube) -> None:
    script.answers = [refusal(422, "Invalid", "no")]
    with pytest.raises(KubeError, match="/x: 422 Invalid: no") as caught:
        kube.apply("/x", {})
    assert caught.value.definite
    assert str(caught.value.about("Thing/x")) == "Thing/x: 422 Invalid: no"


def test_a_list_begins_anew_when_its_token_has_expired(script: Script, kube: Kube) -> None:
    first = answer(body={"items": [{"n": 1}], "metadata": {"continue": "t"}})
    script.answers = [first, refusal(410, "Expired", "too old"), first, answer(body={"items": [{"n": 2}]})]
    assert kube.list("/x", "a=b", "type!=c") == [{"n": 1}, {"n": 2}]
    assert "labelSelector=a%3Db" in script.requests[0][1] and "fieldSelector=type%21%3Dc" in script.requests[0][1]
    assert ["continue=t" in path for _method, path in script.requests] == [False, True, False, True]


def page(number: int, token: str = "") -> Answer:
    """As the API server writes it."""
    metadata = {"resourceVersion": "7", **({"continue": token, "remainingItemCount": 1} if token else {})}
    body = {"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": [{"n": number}]}
    return 200, {}, json.dumps(body, separators=(",", ":")).encode()


def test_the_next_page_is_on_its_way_while_one_is_read(script: Script, kube: Kube) -> None:
    script.answers = [page(1, "one"), page(2, "two"), page(3)]
    read: list[int] = []

    def each(item: dict[str, Any]) -> int:
        read.append(item["n"])
        deadline = time.monotonic() + 10
        while len(script.requests) < min(len(read) + 1, 3):
            assert time.monotonic() < deadline, "nothing was asked for ahead"
            time.sleep(0.01)
        return item["n"]

    assert kube.list("/x", "a=b", each=each) == [1, 2, 3]
    assert [path.partition("continue=")[2] for _method, path in script.requests] == ["", "one", "two"]
    assert all("labelSelector=a%3Db" in path for _method, path in script.requests) and kube.requests == 3


def test_a_token_that_expires_ahead_of_time_begins_the_list_anew(script: Script, kube: Kube) -> None:
    script.answers = [page(1, "one"), refusal(410, "Expired", "too old"), page(1, "one"), page(2)]
    assert kube.list("/x") == [{"n": 1}, {"n": 2}]


def test_a_list_that_never_holds_still_fails(script: Script, kube: Kube) -> None:
    script.answers = [refusal(410, "Expired", "too old")] * 3
    with pytest.raises(KubeError, match="too old"):
        kube.list("/x")
    assert script.answers == []


def test_answers_that_are_no_kubernetes(script: Script, kube: Kube) -> None:
    script.answers = [(200, {}, b"<html>"), (502, {}, b"Bad\ngateway"), (404, {}, b"404 page not found")]
    with pytest.raises(KubeError, match="NotKubernetes"):
        kube.get("/x")
    with pytest.raises(KubeError, match="Bad\ngateway") as caught:
        kube.get("/x")
    assert not caught.value.definite
    assert kube.get("/x") is None


def test_warnings_are_kept_once(script: Script, kube: Kube) -> None:
    script.answers = [answer(Warning='299 - "v1beta1 is deprecated"')] * 2
    kube.get("/x")
    kube.get("/x")
    assert kube.warnings == ["v1beta1 is deprecated"]


def test_discovery_is_asked_once_per_version(script: Script, kube: Kube) -> None:
    listing = {
        "resources": [
            {"name": "things", "kind": "Thing", "namespaced": True, "verbs": ["get"]},
            {"name": "things/status", "kind": "Thing", "namespaced": True},
            {"name": "worlds", "kind": "World", "namespaced": False},
        ]
    }
    script.answers = [answer(body=listing), answer(body=listing), refusal(404, "NotFound", "no group")]
    assert kube.resource("g.io/v1", "Thing").path("ns", "a/b") == "/apis/g.io/v1/namespaces/ns/things/a%2Fb"
    assert kube.resource("g.io/v1", "World").path(None, "w") == "/apis/g.io/v1/worlds/w"
    assert len(script.requests) == 1
    # A kind that is not known may have come since the last look.
    with pytest.raises(UnknownKind):
        kube.resource("g.io/v1", "Other")
    with pytest.raises(UnknownKind):
        kube.resource("g.io/v1", "Other")
    with pytest.raises(UnknownKind):
        kube.resource("h.io/v1", "Other")


def test_a_namespaced_object_needs_its_namespace() -> None:
    pods = Resource("v1", "Pod", "pods", True)
    assert pods.path() == "/api/v1/pods"
    assert pods.path("ns") == "/api/v1/namespaces/ns/pods"
    with pytest.raises(ValueError, match="needs a namespace"):
        pods.path(None, "x")
    assert title("Pod", "ns", "x") == "Pod/ns/x" and title("Node", None, "n") == "Node/n"


def test_parallel_work_keeps_order_and_goes_on_after_a_failure() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise KubeError(409, "Conflict", "three")
        return number * 2

    outcomes: list[Outcome[int, int]] = in_parallel(work, range(20), workers=4)
    assert [outcome.item for outcome in outcomes] == list(range(20))
    assert [outcome.result for outcome in outcomes if outcome.error is None] == [n * 2 for n in range(20) if n != 3]
    assert str(outcomes[3].error) == "409 Conflict: three"


@pytest.mark.parametrize("status", [0, 401])
def test_parallel_work_stops_when_nothing_more_can_work(status: int) -> None:
    tried: list[int] = []

    def work(number: int) -> None:
        tried.append(number)
        raise KubeError(status, "Gone", "no")

    outcomes = in_parallel(work, range(100), workers=1)
    assert tried == [0]
    assert not outcomes[1].tried and outcomes[1].error is None
