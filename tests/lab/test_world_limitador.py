# SPDX-License-Identifier: GPL-3.0-or-later
"""Limitador's counters as the lab tells them: those that the data plane keeps, under the limits that are in force."""

from __future__ import annotations

from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils import _usage

from lab.gateway.limits import counters_of
from lab.gateway.model import Limit, Rate
from lab.world import limitador

POLICY: dict[str, Any] = {
    "metadata": {"namespace": "ns", "name": "limits"},
    "spec": {
        "overrides": {"limits": {"free": {"rates": [{"limit": 10, "window": "1m"}, {"limit": 100, "window": "24h"}]}}}
    },
}
KNOWN = limitador.maxima([POLICY])


class Named:
    """An expression that is its own source."""

    source = "auth.identity.userid"

    def evaluate(self, _scope: object) -> str:
        return "acme"


def keys() -> list[str]:
    """As the data plane writes them."""
    rates = (Rate(10, 60), Rate(100, 86400))
    limit = Limit("ns/limits", "free", rates, (), (Named(),))  # type: ignore[arg-type]
    return [each.key for each in counters_of("ns/llm-inference", limit, None)]  # type: ignore[arg-type]


def test_limits_are_known_by_policy_name_and_window() -> None:
    assert KNOWN == {("ns/limits", "free", 60): 10, ("ns/limits", "free", 86400): 100}


def test_what_is_counted_is_told_and_read_back() -> None:
    minute, day = (limitador.counter(key, value, 30, KNOWN) for key, value in zip(keys(), (4, 40), strict=True))
    assert minute and day
    assert minute["limit"]["namespace"] == "ns/llm-inference"
    assert [(each["tenant"], each["window"], each["left"]) for each in _usage.requests_left([day, minute])] == [
        ("acme", 60, 6),
        ("acme", 86400, 60),
    ]


def test_an_overshoot_wraps_around_and_is_read_as_nothing_left() -> None:
    told = limitador.counter(keys()[0], 14, 30, KNOWN)
    assert told and told["remaining"] > 2**63
    assert _usage.requests_left([told])[0]["left"] == 0


def test_a_counter_of_a_limit_that_is_gone_is_not_told() -> None:
    assert limitador.counter(keys()[0], 1, 30, {}) is None
