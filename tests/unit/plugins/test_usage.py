# SPDX-License-Identifier: GPL-3.0-or-later
"""Usage: periods, sums, costs, what is left, and the reports. The answers here are recorded or made up; those of a real
Prometheus are in tests/integration/test_usage.py."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _usage as usage

NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)
PERIOD = usage.period_of("30d", NOW)
PRICES = {"org/a": {"input": 0.5, "output": 2.0}, "org/b": None}


def sample(tenant: str, model: str, value: float, kind: str = "", tier: str = "pro") -> tuple[dict[str, str], float]:
    labels = {"tenant_id": tenant, "tenant_tier": tier, "gen_ai_original_model": model}
    return {**labels, **({"gen_ai_token_type": kind} if kind else {})}, value


ANSWERS: dict[str, usage.Samples] = {
    "tokens": [
        sample("acme", "org/a", 1_000_000.4, "input"),
        sample("acme", "org/a", 400_000, "cached_input"),
        sample("acme", "org/a", 500_000, "output"),
        sample("acme", "org/b", 10, "output"),
        sample("idle", "org/a", 0, "output"),
    ],
    "requests": [sample("acme", "org/a", 41.9), sample("acme", "org/b", 1), sample("idle", "org/a", 0)],
    "refused": [({"user": "acme", "tier": "pro"}, 3.0), ({"user": "idle", "tier": "pro"}, 0.0)],
}
FOUND = usage.usage(PERIOD, ANSWERS, PRICES, "EUR")


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("24h", "2026-11-20T12:00:30", "2026-11-21T12:00:30"),
        ("2026-10", "2026-10-01T00:00:00", "2026-11-01T00:00:00"),
        # A month that is not over ends now.
        ("2026-11", "2026-11-01T00:00:00", "2026-11-21T12:00:30"),
        ("2025-12", "2025-12-01T00:00:00", "2026-01-01T00:00:00"),
        ("2026-10-01..2026-10-15", "2026-10-01T00:00:00", "2026-10-15T00:00:00"),
    ],
)
def test_periods(text: str, start: str, end: str) -> None:
    found = usage.period_of(text, NOW)
    assert [found.start.isoformat()[:19], found.end.isoformat()[:19]] == [start, end]


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13", "2027-01", "2026-10-15..2026-10-01", "0d", "..", "2026-10-01.."]
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(ValueError):
        usage.period_of(text, NOW)


def test_rows_are_by_tenant_tier_and_model_and_cached_tokens_count_once() -> None:
    assert FOUND.rows == [
        usage.Row("acme", "pro", "org/a", 42, 1_000_000, 500_000, 1.5),
        usage.Row("acme", "pro", "org/b", 1, 0, 10, None),
    ]
    assert FOUND.refused == {"acme": 3}
    assert FOUND.notes == ["without a price in the inventory: org/b"]


def test_sums_by_column() -> None:
    (tenant,) = usage.total(FOUND.rows, "tenant")
    assert (tenant.tenant, tenant.requests, tenant.output, tenant.cost) == ("acme", 43, 500_010, 1.5)
    assert [row.model for row in usage.total(FOUND.rows, "model")] == ["org/a", "org/b"]


def test_a_complaint_of_prometheus_is_passed_on() -> None:
    with pytest.raises(usage.BadAnswer, match="bad_data: parse error"):
        usage.samples({"status": "error", "error": "bad_data: parse error"})
    with pytest.raises(usage.BadAnswer, match="no answer of Prometheus"):
        usage.samples(["html"])


# As Limitador 2.4 tells them, with names and numbers of our own.
COUNTERS = [
    {
        "limit": {"namespace": "ns/route", "max_value": 100, "seconds": 86400, "variables": ["auth.identity.userid"]},
        "set_variables": {"auth.identity.userid": tenant},
        "remaining": remaining,
        "expires_in_seconds": 3600,
    }
    for tenant, remaining in (("acme", 12), ("acme", 70), ("over", 18446744073709551610), ("spent", 0))
]


def test_what_is_left_is_the_least_of_all_routes_and_never_more_than_the_limit() -> None:
    assert [(each["tenant"], each["left"]) for each in usage.requests_left(COUNTERS)] == [
        ("acme", 12),
        ("over", 0),
        ("spent", 0),
    ]


def test_tokens_are_left_of_windows_that_begin_with_the_clocks() -> None:
    tiers = {"pro": {"tokens": {"1m": 100, "24h": 5000}}}
    asked = usage.window_questions(tiers, NOW)
    assert "[30s]" in asked["pro", "1m"] and "[43230s]" in asked["pro", "24h"]
    told: dict[tuple[str, str], usage.Samples] = {("pro", "24h"): [({"tenant_id": "acme"}, 5200.0)], ("pro", "1m"): []}
    (left,) = usage.tokens_left(tiers, told, NOW)
    assert (left["left"], left["resets_in"], left["limit"]) == (0, 86400 - 43230, 5000)


def test_the_table_ends_with_the_sum() -> None:
    lines = usage.render(asdict(FOUND)).splitlines()
    (whole,) = [line for line in lines if line.startswith("all ")]
    assert whole.split() == ["all", "43", "1,000,000", "500,010", "1.50"]
    assert "Requests over a limit: acme 3" in lines


def test_csv_and_json_tell_the_same() -> None:
    rows = list(csv.DictReader(io.StringIO(usage.render(asdict(FOUND), "csv"))))
    told = json.loads(usage.render(asdict(FOUND), "json"))
    assert [int(row["tokens_in"]) for row in rows] == [row["input"] for row in told["rows"]] == [1_000_000, 0]
    assert [row["cost"] for row in rows] == ["1.500000", ""]


class Outside(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_page_has_charts_and_needs_no_other_file() -> None:
    found = usage.usage(PERIOD, {**ANSWERS, "tokens": [sample("<b>x", "org/a", 5, "output")]}, PRICES, "EUR")
    page = usage.render(asdict(found), "html")
    reader = Outside()
    reader.feed(page)
    assert reader.links == [] and "script" not in reader.tags and "link" not in reader.tags
    assert reader.tags.count("svg") == 3 and reader.tags.count("rect") >= 6
    assert "&lt;b&gt;x" in page and "<b>x" not in page


def test_nothing_used_is_a_report_too() -> None:
    empty = usage.usage(PERIOD, {"tokens": [], "requests": [], "refused": []}, PRICES, "EUR")
    for form in usage.FORMS:
        assert usage.render(asdict(empty), form)
    with pytest.raises(ValueError, match="known are text, csv, json, html"):
        usage.render(asdict(empty), "pdf")
