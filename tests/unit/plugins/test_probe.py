# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe against a small gateway that really listens, and its judgement on answers made by hand."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.tokenlabs.platform.plugins.module_utils import _probe as probe
from ansible_collections.tokenlabs.platform.plugins.modules import gateway_probe

KEY = "tlabs_sk_0123456789abcdefghijklmnopqrstuv"
CHAT = {"choices": [{"message": {"content": "hello"}}], "usage": {"total_tokens": 45}}


class Gateway(ThreadingHTTPServer):
    """Answers by path; remembers what came."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.under_way = 0
        self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with server.lock:
            server.seen.append(
                {"path": self.path, "headers": dict(self.headers), "body": body, "peer": self.client_address}
            )
            number = sum(1 for seen in server.seen if seen["path"] == self.path)
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        try:
            getattr(self, "_" + self.path.strip("/").partition("?")[0].replace("/", "_"))(number)
        finally:
            with server.lock:
                server.under_way -= 1

    def _send(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _chat(self, _number: int) -> None:
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self._send(401, b'{"error":{"code":"invalid_api_key"}}', x_reason="no")
        else:
            self._send(200, json.dumps(CHAT).encode())

    def _echo(self, _number: int) -> None:
        key = self.headers.get("Authorization", "")
        self._send(500, f"{key} {base64.b64encode(key[7:].encode()).decode()}".encode())

    def _limited(self, number: int) -> None:
        time.sleep(0.01)
        self._send(200 if number <= 3 else 429, json.dumps(CHAT).encode())

    def _later(self, number: int) -> None:
        self._send(200 if number > 1 else 401, b"{}")

    def _models(self, _number: int) -> None:
        self._send(200, json.dumps({"data": [{"id": "b"}, {"id": "a"}]}).encode())

    def _sse(self, *events: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            data = f"data: {event}\n\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    def _stream(self, _number: int) -> None:
        self._sse('{"choices":[{"delta":{"content":"x"}}]}', '{"choices":[],"usage":{"total_tokens":7}}', "[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _stream_without_usage(self, _number: int) -> None:
        self._sse('{"choices":[{"delta":{"content":"x"}}]}', "[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _stream_cut(self, _number: int) -> None:
        self._sse('{"choices":[]}')
        self.close_connection = True

    def _stream_endless(self, _number: int) -> None:
        self._sse('{"choices":[]}', "[DONE]")
        time.sleep(3)

    def _truncated(self, _number: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"short")
        self.close_connection = True

    def _hang(self, _number: int) -> None:
        time.sleep(3)

    def _closed(self, _number: int) -> None:
        self.close_connection = True


@pytest.fixture(name="gateway")
def fixture_gateway() -> Iterator[Gateway]:
    server = Gateway()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(name="key_file")
def fixture_key_file(tmp_path: Path) -> str:
    path = tmp_path / "acme.key"
    path.write_text(KEY + "\n")
    return str(path)


def one(gateway: Gateway, **case: Any) -> probe.Verdict:
    keys = probe.Keys()
    expect = probe.Expect(**case.pop("expect"))
    client = probe.Client(gateway.url)
    return probe.run(client, [probe.Case(**{"name": "x", "expect": expect, "timeout": 5, **case})], keys.read)[0]


def test_the_key_is_read_from_its_file_without_the_newline(gateway: Gateway, key_file: str) -> None:
    verdict = one(
        gateway,
        path="/chat",
        key_file=key_file,
        body=b"{}",
        method="POST",
        expect={"status": (200,), "json": {"choices.0.message.content": "hello"}, "positive": ("usage.total_tokens",)},
    )
    assert verdict.reasons == []
    assert gateway.seen[0]["headers"]["authorization"] == f"Bearer {KEY}"
    assert gateway.seen[0]["headers"]["content-type"] == "application/json"


def test_another_scheme_and_host_are_sent_as_given(gateway: Gateway, key_file: str) -> None:
    verdict = one(
        gateway,
        path="/chat?x=1",
        key_file=key_file,
        scheme="bearer",
        headers={"Host": "API.EXAMPLE.COM"},
        expect={"status": (401,), "headers": {"X-Reason": "^no$"}, "contains": "invalid_api_key"},
    )
    assert verdict.reasons == []
    sent = gateway.seen[0]
    assert sent["path"] == "/chat?x=1"
    assert sent["headers"]["authorization"] == f"bearer {KEY}"
    assert [value for name, value in sent["headers"].items() if name.lower() == "host"] == ["API.EXAMPLE.COM"]


@pytest.mark.parametrize(
    ("expect", "reason"),
    [
        ({"status": (200,)}, 'status 401: {"error":{"code":"invalid_api_key"}}'),
        ({"status": (401,), "headers": {"X-Other": "."}}, "header X-Other is missing"),
        ({"status": (401,), "headers": {"X-Reason": "^yes$"}}, "header X-Reason is 'no'"),
        ({"status": (401,), "contains": "expired"}, "the body lacks 'expired'"),
        ({"status": (401,), "json": {"error.code": "other"}}, "error.code is invalid_api_key"),
        ({"status": (401,), "json": {"error.message": None}}, "error.message is null"),
        ({"status": (401,), "positive": ("usage.total_tokens",)}, "usage.total_tokens is null"),
        ({"status": (401,), "stream": True}, "not a stream but 'application/json'"),
        ({"counts": {401: 2}}, "status 401 came 1 times"),
        ({"status": (401,), "tokens": 1}, "only 0 tokens were counted before"),
    ],
)
def test_what_is_not_as_expected_is_named(gateway: Gateway, expect: dict[str, Any], reason: str) -> None:
    assert one(gateway, path="/chat", expect=expect).reasons == [reason]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/stream", None),
        ("/stream_without_usage", "usage.total_tokens is null"),
        ("/stream_cut", "the answer was cut off"),
        ("/stream_endless", "no complete answer within 0.5 s"),
        ("/truncated", "the answer was cut off"),
        ("/hang", "no complete answer within 0.5 s"),
        ("/closed", "the connection was closed without an answer"),
    ],
)
def test_streams_are_read_to_their_end_and_nothing_hangs(gateway: Gateway, path: str, reason: str | None) -> None:
    expect = {"status": (200,), "stream": True, "positive": ("usage.total_tokens",)}
    started = time.monotonic()
    verdict = one(gateway, path=path, timeout=0.5, expect=expect)
    assert verdict.reasons == ([reason] if reason else [])
    assert time.monotonic() - started < 2.5


def test_nobody_listens(gateway: Gateway) -> None:
    port = gateway.server_address[1]
    gateway.shutdown()
    gateway.server_close()
    client = probe.Client(f"http://127.0.0.1:{port}")
    verdict = probe.run(client, [probe.Case("x", "/chat", probe.Expect((200,)))], probe.Keys().read)[0]
    assert verdict.reasons == ["Connection refused"]
    assert verdict.got() == "no answer"


def test_repeated_at_once_and_counted(gateway: Gateway) -> None:
    verdict = one(gateway, path="/limited", repeat=5, parallel=5, expect={"counts": {200: 3, 429: 2}})
    assert verdict.reasons == []
    assert len(gateway.seen) == 5
    verdict = one(gateway, path="/limited", repeat=2, parallel=2, expect={"counts": {200: 2}})
    assert verdict.reasons == ["status 429 came 2 times"]
    assert verdict.got() == "2 x 429"


def test_until_a_status_and_not_further(gateway: Gateway) -> None:
    verdict = one(gateway, path="/limited", repeat=9, until=429, expect={"status": (429,), "tokens": 100})
    assert verdict.reasons == []
    assert [answer.status for answer in verdict.answers] == [200, 200, 200, 429]


def test_until_a_status_that_never_comes(gateway: Gateway) -> None:
    verdict = one(gateway, path="/models", repeat=3, until=429, expect={"status": (429,)})
    assert verdict.reasons[0].startswith("status 200")
    assert len(verdict.answers) == 3


def test_a_limit_that_strikes_too_early(gateway: Gateway) -> None:
    verdict = one(gateway, path="/limited", repeat=9, until=429, expect={"status": (429,), "tokens": 1000})
    assert verdict.reasons == ["only 135 tokens were counted before"]


def test_connections_are_kept_only_when_asked(gateway: Gateway) -> None:
    for path, reuse in (("/models", True), ("/stream", True), ("/limited", False)):
        verdict = one(gateway, path=path, repeat=3, reuse=reuse, expect={"status": (200,)})
        assert (verdict.reasons, len(verdict.answers)) == ([], 3)
    peers = Counter(seen["path"] for seen in {str(seen["peer"]): seen for seen in gateway.seen}.values())
    assert peers == {"/models": 1, "/stream": 1, "/limited": 3}


def test_patience(gateway: Gateway) -> None:
    assert one(gateway, path="/later", expect={"status": (200,)}).reasons == ["status 401: {}"]
    gateway.seen.clear()
    assert one(gateway, path="/later", patience=5, expect={"status": (200,)}).ok
    assert len(gateway.seen) == 2


def test_stages_in_turn_and_concurrency_bounded(gateway: Gateway) -> None:
    cases = [
        probe.Case("last", "/models", probe.Expect((200,)), stage=1),
        probe.Case("burst", "/limited", probe.Expect(counts={200: 3, 429: 5}), repeat=8, parallel=8),
    ]
    client = probe.Client(gateway.url, concurrency=2)
    verdicts = probe.run(client, cases, probe.Keys().read)
    assert [(verdict.case.name, verdict.ok) for verdict in verdicts] == [("last", True), ("burst", True)]
    assert gateway.seen[-1]["path"] == "/models"
    assert gateway.most == 2


def test_lists_by_star(gateway: Gateway) -> None:
    assert one(gateway, path="/models", expect={"status": (200,), "json": {"data.*.id": ["a", "b"]}}).ok
    assert one(gateway, path="/models", expect={"json": {"data.*.id": ["a"]}}).reasons == ['data.*.id is ["a", "b"]']


@pytest.mark.parametrize(
    ("data", "path", "found"),
    [
        ({"a": [{"b": 1}]}, "a.0.b", 1),
        ({"a": [{"b": 1}]}, "a.1.b", None),
        ({"a": [{"b": 1}]}, "a.*", [{"b": 1}]),
        ({"a": 1}, "a.b", None),
        ({"a": 1}, "a.*", None),
        (None, "a", None),
    ],
)
def test_look_up(data: Any, path: str, found: Any) -> None:
    assert probe.look_up(data, path) == found


@pytest.mark.parametrize("url", ["gateway", "ftp://x", "http://", "10.0.0.1:80"])
def test_a_wrong_base_url_is_refused(url: str) -> None:
    with pytest.raises(probe.ProbeError, match="base_url must be"):
        probe.Client(url)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file"), (b"", "something other"), (b"a b", "something other"), (b"\xff", "other")],
)
def test_a_key_file_without_a_key_fails_the_case_alone(
    gateway: Gateway, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "x.key"
    if content is not None:
        path.write_bytes(content)
    verdict = one(gateway, path="/chat", key_file=str(path), expect={"status": (200,)})
    assert len(verdict.reasons) == 1
    assert words in verdict.reasons[0]
    assert gateway.seen == []


def module(capsys: pytest.CaptureFixture[str], **args: Any) -> tuple[int, dict[str, Any], str]:
    with patch_module_args(args), pytest.raises(SystemExit) as ended:
        gateway_probe.main()
    out = capsys.readouterr().out
    return int(str(ended.value.code)), json.loads(out), out


def test_the_key_is_in_no_result(gateway: Gateway, key_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [{"name": "echo", "path": "/echo", "key_file": key_file, "expect": {"status": [200]}}]
    for fail in (True, False):
        rc, result, out = module(capsys, base_url=gateway.url, cases=cases, fail=fail)
        assert (rc, result["failed_cases"]) == (int(fail), ["echo"])
        assert KEY not in out
        assert base64.b64encode(KEY.encode()).decode().rstrip("=") not in out
        assert f"(key of {key_file})" in result["cases"][0]["reason"]


def test_the_module_judges_and_reports(gateway: Gateway, key_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        {
            "name": "chat",
            "path": "/chat",
            "json": {"model": "m"},
            "key_file": key_file,
            "expect": {"status": [200], "positive": ["usage.total_tokens"]},
        },
        {"name": "no key", "path": "/chat", "hint": "AuthPolicy", "expect": {"status": [200]}},
    ]
    rc, result, _out = module(capsys, base_url=gateway.url, cases=cases, fail=True)
    assert rc == 1
    assert result["msg"] == 'no key: expected 200, status 401: {"error":{"code":"invalid_api_key"}}'
    rc, result, _out = module(capsys, base_url=gateway.url, cases=cases, fail=False)
    assert rc == 0
    assert result["changed"] is False
    chat, no_key = result["cases"]
    assert (chat["ok"], chat["got"], chat["tokens"], chat["expected"]) == (
        True,
        "200",
        45,
        "200, usage.total_tokens > 0",
    )
    assert (no_key["ok"], no_key["got"], no_key["hint"]) == (False, "401", "AuthPolicy")
    assert sorted({seen["body"] for seen in gateway.seen}) == [b"", b'{"model": "m"}']


def test_two_cases_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [{"name": "a", "path": "/", "expect": {"status": [200]}}] * 2
    rc, result, _out = module(capsys, base_url="http://127.0.0.1:1", cases=cases)
    assert (rc, result["msg"]) == (1, "cases must have different names: a")


def test_words_say_what_is_expected() -> None:
    expect = probe.Expect(
        (403, 404), {200: 10, 429: 1}, {"x-a": "."}, "text", {"a.b": 1, "c": None}, ("usage.total_tokens",), True, 5
    )
    assert expect.words() == (
        "403 or 404, 10 x 200, 1 x 429, header x-a, a stream to its end, usage.total_tokens > 0, a.b = 1, c, "
        "'text' in the body, 5 tokens counted first"
    )
