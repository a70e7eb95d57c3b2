# SPDX-License-Identifier: GPL-3.0-or-later
"""Without a range for the load balancer, the controller's own address is the gateway's."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.conftest import kubectl, playbook
from tests.scenarios.evidence import mutating_commands, writes

pytestmark = pytest.mark.long
NO_RANGE = ("-e", json.dumps({"tokenlabs_loadbalancer_range": None}))
KEYS = Path(os.environ.get("TOKENLABS_LAB", "/")) / "credentials"


def status(address: str, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{address}/v1/models", headers=headers), timeout=10):
            return 200
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0


@pytest.fixture
def address() -> Iterator[str]:
    """The address of the only controller, while it is the gateway's."""
    nodes = json.loads(kubectl("get", "nodes", "-l", "node.kubernetes.io/microk8s-controlplane", "-o", "json"))["items"]
    yield next(each["address"] for each in nodes[0]["status"]["addresses"] if each["type"] == "InternalIP")
    back = playbook("gateway", "--tags", "gateway")
    assert back.code == 0, back.text


def test_the_controller_answers_for_the_gateway(address: str) -> None:
    assert status(address) == 0
    result = playbook("gateway", "--tags", "gateway", *NO_RANGE)
    assert result.code == 0, result.text
    end = time.monotonic() + 60
    while status(address) == 0:
        assert time.monotonic() < end, "nobody answers"
        time.sleep(1)
    assert status(address) == 401
    assert status(address, (KEYS / "demo-pro.key").read_text()) == 200

    begun = time.time()
    again = playbook("gateway", "--tags", "gateway", *NO_RANGE)
    assert again.code == 0 and again.changed == 0, again.text
    assert mutating_commands(begun) == writes(begun) == []
    proof = playbook("verify", *NO_RANGE, "-e", "verify_limits=never")
    assert proof.code == 0, proof.text
