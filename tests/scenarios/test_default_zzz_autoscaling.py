# SPDX-License-Identifier: GPL-3.0-or-later
"""An autoscaler acts: requests that wait bring a second worker to the other Spark, and no later run takes it away."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios import evidence
from tests.scenarios.conftest import kubectl, playbook

pytestmark = pytest.mark.long

MODEL = "nvidia/Llama-3.1-Nemotron-Nano-8B-v1"
SCALED = {
    "name": "nemotron-llama-8b",
    "model": MODEL,
    "image": "ghcr.io/llm-d/llm-d-cuda:v0.5.0",
    "args": ["--max-num-seqs=1"],
    "replicas": 1,
    "max_replicas": 2,
}
STACK = json.dumps({"tokenlabs_observability": {"prometheus": "stack"}})
CLIENTS = 24


@pytest.fixture
def chosen(tmp_path: Path) -> list[str]:
    """Arguments by which both Sparks of the lab, each with one slot, serve this model and no other."""
    (tmp_path / "hosts.json").write_text(json.dumps({"sparks": {"hosts": {"spark-01": {}, "spark-02": {}}}}))
    (tmp_path / "host_vars").mkdir()
    for host in ("spark-01", "spark-02"):
        (tmp_path / f"host_vars/{host}.json").write_text(json.dumps({"tokenlabs_models": [SCALED]}))
    return ["-i", str(tmp_path), "-e", STACK]


def wait_for(what: str, met: Callable[[], Any], limit: float = 180.0) -> None:
    deadline = time.monotonic() + limit
    while not met():
        assert time.monotonic() < deadline, f"{what}: not after {limit:.0f} s"
        time.sleep(2)


def autoscaler() -> dict[str, Any]:
    return json.loads(kubectl("-n", "token-labs", "get", "hpa", "ms-nemotron-llama-8b", "-o", "json"))


def active() -> bool:
    conditions = (autoscaler().get("status") or {}).get("conditions") or []
    return any(each["type"] == "ScalingActive" and each["status"] == "True" for each in conditions)


def workers() -> list[str]:
    """The nodes of the workers that are ready."""
    pods = json.loads(
        kubectl("-n", "token-labs", "get", "pods", "-l", "llm-d.ai/model=nemotron-llama-8b", "-o", "json")
    )
    return sorted(
        pod["spec"]["nodeName"]
        for pod in pods["items"]
        if any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or [])
    )


@contextmanager
def load() -> Iterator[None]:
    """Clients that ask again as soon as they are answered, so that all but one request waits."""
    address = kubectl(
        "-n", "token-labs", "get", "gateway", "token-labs-gateway", "-o", "jsonpath={.status.addresses[0].value}"
    )
    key = (evidence.state() / "credentials/demo-enterprise.key").read_text()
    body = {"model": MODEL, "stream": True, "max_tokens": 64, "messages": [{"role": "user", "content": "Count."}]}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    ended = threading.Event()

    def client() -> None:
        while not ended.is_set():
            request = urllib.request.Request(
                f"http://{address}/v1/chat/completions", json.dumps(body).encode(), headers
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    answer.read()
            except (urllib.error.URLError, OSError):
                ended.wait(1)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_load_brings_a_worker_and_a_run_leaves_it(chosen: list[str]) -> None:
    for name in ("inference", "observability"):
        done = playbook(name, *chosen)
        assert done.code == 0, done.text
    wait_for("the autoscaler sees its metrics", active)
    assert len(workers()) == 1
    with load():
        wait_for("there is a second worker", lambda: workers() == ["spark-01", "spark-02"])
    assert autoscaler()["status"]["desiredReplicas"] == 2

    began = time.time()
    again = playbook("inference", *chosen)
    assert again.code == 0, again.text
    assert evidence.writes(began) == []
    assert workers() == ["spark-01", "spark-02"]
