# SPDX-License-Identifier: GPL-3.0-or-later
"""The module usage_info against a real Prometheus that holds series as the platform's parts write them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.tokenlabs.platform.plugins.modules import usage_info

from tests import prometheus
from tests.ports import free_port

STEP, MINUTES = 60, 180
TOKENS, REQUESTS = "gen_ai_client_token_usage_token_sum", "gen_ai_server_request_duration_seconds_count"


def labels(tenant: str, tier: str, model: str, **more: str) -> str:
    told = {"tenant_id": tenant, "tenant_tier": tier, "gen_ai_original_model": model, **more}
    return ",".join(f'{name}="{value}"' for name, value in told.items())


def series(name: str, told: str, each_minute: int, restart: int | None = None) -> list[str]:
    """A counter that grows for three hours up to now; at a restart it begins anew."""
    now, lines, value = int(time.time()) // STEP * STEP, [], 0
    for minute in range(MINUTES + 1):
        value = 0 if minute == restart else value + each_minute
        lines.append(f"{name}{{{told}}} {value} {now - (MINUTES - minute) * STEP}")
    return lines


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    acme, initech = ("acme", "pro", "org/a"), ("initech", "free", "org/b")
    text = [
        "# TYPE gen_ai unknown",
        *series(TOKENS, labels(*acme, gen_ai_token_type="input"), 1000, restart=120),
        *series(TOKENS, labels(*acme, gen_ai_token_type="output"), 200),
        *series(TOKENS, labels(*initech, gen_ai_token_type="output"), 50),
        *series(TOKENS, 'gen_ai_token_type="output",gen_ai_original_model="org/a"', 7),
        *series(REQUESTS, labels(*acme), 3),
        *series(REQUESTS, labels(*acme, error_type="_OTHER"), 5),
        *series("limited_calls", 'user="initech",tier="free"', 2),
        "# EOF",
    ]
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus.running(folder, "\n".join(text) + "\n", free_port()) as running:
        yield running


def run(capsys: pytest.CaptureFixture[str], **parameters: Any) -> dict[str, Any]:
    parameters = {"limitador": False, **parameters}
    with patch_module_args(parameters), pytest.raises(SystemExit):
        usage_info.main()
    return json.loads(capsys.readouterr().out)


MODELS = [
    {"served_name": "org/a", "price": {"input": 1.0, "output": 10.0}},
    {"served_name": "org/b", "price": None},
]


def test_tokens_requests_and_cost_of_a_period(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, url=address, period="2h", models=MODELS, currency="EUR")
    acme, initech = found["rows"]
    assert (acme["tenant"], acme["tier"], acme["model"]) == ("acme", "pro", "org/a")
    # Seen through the restart an hour ago; failed requests are not among those that were served.
    assert acme["input"] == pytest.approx(119_000, rel=0.02)
    assert acme["output"] == pytest.approx(24_000, rel=0.02)
    assert acme["requests"] == pytest.approx(360, rel=0.02)
    assert acme["cost"] == pytest.approx((acme["input"] * 1.0 + acme["output"] * 10.0) / 1e6)
    assert (initech["tenant"], initech["cost"]) == ("initech", None)
    assert found["refused"]["initech"] == pytest.approx(240, rel=0.02)
    assert found["notes"] == ["without a price in the inventory: org/b"]


def test_a_shorter_period_is_less(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, url=address, period="30m", models=MODELS)
    assert found["rows"][0]["output"] == pytest.approx(6_000, rel=0.05)


def test_what_is_left_of_the_tokens(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    if time.time() % 86400 < 5 * STEP:
        pytest.skip("the window has just begun, and holds too few samples")
    tiers = {"pro": {"tokens": {"24h": 10_000_000}}, "free": {"tokens": {"24h": 1}}}
    left = {each["tenant"]: each for each in run(capsys, url=address, tiers=tiers)["left"]}
    # What was counted since midnight depends on the time of this test.
    assert 10_000_000 - 250_000 <= left["acme"]["left"] < 10_000_000
    assert left["initech"]["left"] == 0


def test_a_prometheus_that_is_away_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, url=f"http://127.0.0.1:{free_port()}")
    assert told["failed"] and "refused" in told["msg"]


def test_a_period_that_is_none_is_said(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "yesterday" in run(capsys, url=address, period="yesterday")["msg"]
