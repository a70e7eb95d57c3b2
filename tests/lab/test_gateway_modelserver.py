# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated model server speaks vLLM's OpenAI API, with numbers that can be foretold."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.gateway.modelserver import BadRequest, Settings, count_tokens, plan, stream_events
from tests.ports import free_port

REPO = Path(__file__).resolve().parents[2]
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "lab.gateway.modelserver", "--listen", f"127.0.0.1:{port}", "--model", "m"]
        + ["--model", "alias", "--event-delay-ms", "1", "--max-model-len", "1000"],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        cwd=REPO,
    )

    def request(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    deadline = time.monotonic() + 10
    while True:
        try:
            request("GET", "/health")
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    yield request
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0


MESSAGES = [{"role": "user", "content": "one two three"}]


def test_chat(ask: Ask) -> None:
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 5}
    status, headers, data = ask("POST", "/v1/chat/completions", body)
    answer = json.loads(data)
    assert (status, headers["server"]) == (200, "uvicorn")
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert len(answer["choices"][0]["message"]["content"].split()) == 5
    assert answer["choices"][0]["finish_reason"] == "length"
    assert json.loads(ask("POST", "/v1/chat/completions", body)[2])["id"] == answer["id"]


@pytest.mark.parametrize("include", [True, False])
def test_streams(ask: Ask, include: bool) -> None:
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 5, "stream": True}
    if include:
        body["stream_options"] = {"include_usage": True}
    status, headers, data = ask("POST", "/v1/chat/completions", body)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    events = [line[6:] for line in data.decode().split("\n\n") if line]
    assert events[-1] == "[DONE]"
    text = "".join(
        choice["delta"].get("content", "") for event in events[:-1] for choice in json.loads(event)["choices"]
    )
    assert len(text.split()) == 5
    usages = [json.loads(event).get("usage") for event in events[:-1] if "usage" in json.loads(event)]
    assert usages == ([{"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}] if include else [])


def test_completions_and_embeddings(ask: Ask) -> None:
    answer = json.loads(ask("POST", "/v1/completions", {"model": "alias", "prompt": ["a b", "c"]})[2])
    assert answer["usage"]["total_tokens"] == 3 + 16
    assert answer["choices"][0]["finish_reason"] == "stop"
    answer = json.loads(ask("POST", "/v1/embeddings", {"model": "m", "input": ["a b", "c"]})[2])
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["usage"]["total_tokens"] == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/chat/completions", b"{", 400, "BadRequestError"),
        ("/v1/chat/completions", [], 400, "BadRequestError"),
        ("/v1/chat/completions", {"model": "m"}, 400, "BadRequestError"),
        ("/v1/chat/completions", {"model": "m", "messages": []}, 400, "BadRequestError"),
        ("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "max_tokens": 0}, 400, "BadRequestError"),
        ("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "max_tokens": "5"}, 400, "BadRequestError"),
        ("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "max_tokens": 1001}, 400, "BadRequestError"),
        ("/v1/chat/completions", {"model": "m", "messages": MESSAGES, "stream_options": {}}, 400, "BadRequestError"),
        ("/v1/chat/completions", {"model": "x", "messages": MESSAGES}, 404, "NotFoundError"),
        ("/v1/completions", {"model": "m"}, 400, "BadRequestError"),
        ("/v1/embeddings", {"model": "m"}, 400, "BadRequestError"),
    ],
)
def test_bad_requests(ask: Ask, path: str, body: Any, status: int, kind: str) -> None:
    answer = ask("POST", path, body)
    assert answer[0] == status
    assert json.loads(answer[2])["error"]["type"] == kind


def test_models_health_and_unknown_paths(ask: Ask) -> None:
    assert [model["id"] for model in json.loads(ask("GET", "/v1/models")[2])["data"]] == ["m", "alias"]
    assert ask("GET", "/health")[0] == 200
    assert ask("GET", "/nothing")[0] == 404
    assert ask("GET", "/v1/chat/completions")[0] == 405


def test_metrics(ask: Ask) -> None:
    def numbers() -> dict[str, float]:
        lines = ask("GET", "/metrics")[2].decode().splitlines()
        return {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[0] != "#"}

    before = numbers()
    ask("POST", "/v1/chat/completions", {"model": "m", "messages": MESSAGES, "max_tokens": 5})
    after = numbers()
    assert after["vllm:prompt_tokens_total"] - before["vllm:prompt_tokens_total"] == 3
    assert after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"] == 5
    assert after["vllm:e2e_request_latency_seconds_count"] - before["vllm:e2e_request_latency_seconds_count"] == 1
    assert {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"} <= set(after)


def test_credentials_are_noticed_and_never_shown(ask: Ask) -> None:
    body = {"model": "m", "messages": MESSAGES}

    def foreign() -> int:
        return int(json.loads(ask("GET", "/seen")[2])["foreign_credentials"])

    before = foreign()
    ask("POST", "/v1/chat/completions", body, Authorization="Bearer redacted")
    assert foreign() == before
    ask("POST", "/v1/chat/completions", body, Authorization="Bearer tlabs_sk_secret")
    assert foreign() == before + 1
    assert b"tlabs_sk" not in ask("GET", "/seen")[2]


def test_tokens_of_prompts() -> None:
    assert count_tokens("a b  c") == 3
    assert count_tokens([1, 2, 3]) == 3
    assert count_tokens([{"role": "user", "content": [{"type": "text", "text": "a b"}]}]) == 2


def test_forced_usage_and_long_answers() -> None:
    settings = Settings(("m",), force_include_usage=True)
    job = plan({"model": "m", "stream": True, "max_tokens": 10000}, "x", "cmpl", settings, 0)
    events = stream_events(job, chat=False)
    assert len(events) <= 33
    assert events[-1]["usage"]["completion_tokens"] == 10000
    with pytest.raises(BadRequest):
        plan({"model": "m", "stream": "yes"}, "x", "cmpl", settings, 0)


def test_tools_and_images_need_a_server_that_was_started_for_them() -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]
    for body, able in (
        ({"messages": MESSAGES, "tools": [{"type": "function"}]}, Settings(("m",), tools=True)),
        ({"messages": picture}, Settings(("m",), vision=True)),
    ):
        assert plan({"model": "m", **body}, body["messages"], "c", able, 0).completion_tokens == 16
        with pytest.raises(BadRequest):
            plan({"model": "m", **body}, body["messages"], "c", Settings(("m",)), 0)
