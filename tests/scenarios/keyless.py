# SPDX-License-Identifier: GPL-3.0-or-later
"""A client without a key, which asks the gateway all the time and must never be let in."""

from __future__ import annotations

import collections
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.scenarios.conftest import kubectl

CHAT = json.dumps({"model": "nvidia/Llama-3.1-Nemotron-Nano-8B-v1", "messages": [{"role": "user", "content": "x"}]})


def address() -> str:
    path = "jsonpath={.status.addresses[0].value}"
    return kubectl("-n", "token-labs", "get", "gateway", "token-labs-gateway", "-o", path)


def ask(host: str, method: str, path: str, headers: dict[str, str], body: str | None = None) -> int | None:
    """The status of one request on a connection of its own; None where nobody answers."""
    connection = http.client.HTTPConnection(host, 80, timeout=5)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


@contextmanager
def keyless_client(host: str) -> Iterator[collections.Counter[int | None]]:
    """Asks without a key all the time; counts the answers."""
    seen: collections.Counter[int | None] = collections.Counter()
    done = threading.Event()
    json_body = {"Content-Type": "application/json"}

    def work() -> None:
        while not done.wait(0.05):
            seen[ask(host, "POST", "/v1/chat/completions", json_body, CHAT)] += 1
            seen[ask(host, "POST", "/v1/chat/completions", {**json_body, "Host": "API.EXAMPLE"}, CHAT)] += 1
            seen[ask(host, "GET", "/v1/models", {})] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
