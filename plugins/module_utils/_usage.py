# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has used how much of what, and what it costs: questions to Prometheus, and reports of the answers. Pure, and
private to the collection.

Tokens and requests by model are those of the AI gateway's filter (envoyproxy/ai-gateway v0.5.0
internal/metrics/genai.go, by the names that Prometheus gives them), refusals are Limitador's.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._limits import window_seconds
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import span

Data = Mapping[str, Any]

MILLION = 1_000_000
BY = "tenant_id, tenant_tier, gen_ai_original_model"
# Where Limitador keeps counters: by route.
ROUTES = ("llm-inference", "models")


# --- Questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Period:
    """From a moment on, up to another one."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> int:
        return max(1, int((self.end - self.start).total_seconds()))

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


def period_of(text: str, now: datetime) -> Period:
    """``24h`` or ``30d`` up to now, a month as ``2026-10``, or ``2026-10-01..2026-10-15``; ValueError for others."""
    if match := re.fullmatch(r"(\d{4})-(\d{2})", text):
        start = datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC)
        following = (start + timedelta(days=32)).replace(day=1)
        found = Period(start, min(following, now))
    elif ".." in text:
        first, _dots, last = text.partition("..")
        found = Period(*(datetime.fromisoformat(each).replace(tzinfo=UTC) for each in (first, last)))
    else:
        found = Period(now - span(text), now)
    if found.start >= min(found.end, now):
        raise ValueError(f"the period {text} has not begun, or ends before it begins")
    return Period(found.start, min(found.end, now))


def questions(period: Period) -> dict[str, str]:
    """PromQL by what it tells, to be asked for the end of the period."""
    past = f"[{period.seconds}s]"
    known = 'tenant_id!=""'
    tokens = f"increase(gen_ai_client_token_usage_token_sum{{{known}}}{past})"
    requests = f'increase(gen_ai_server_request_duration_seconds_count{{{known},error_type=""}}{past})'
    return {
        "tokens": f"sum by ({BY}, gen_ai_token_type) ({tokens})",
        "requests": f"sum by ({BY}) ({requests})",
        "refused": f'sum by (user, tier) (increase(limited_calls{{user!=""}}{past}))',
    }


def window_questions(tiers: Mapping[str, Data], now: datetime) -> dict[tuple[str, str], str]:
    """(tier, window) -> PromQL for the tokens used in the current window; windows begin with the clock's."""
    found = {}
    for tier, limits in tiers.items():
        for window in limits["tokens"]:
            seconds = window_seconds(window)
            past = max(1, int(now.timestamp()) % seconds)
            kinds = f'tenant_id!="",tenant_tier="{tier}",gen_ai_token_type=~"input|output"'
            found[tier, window] = (
                f"sum by (tenant_id) (increase(gen_ai_client_token_usage_token_sum{{{kinds}}}[{past}s]))"
            )
    return found


Samples = list[tuple[dict[str, str], float]]


class BadAnswer(ValueError):
    """What Prometheus or Limitador said is not what they say."""


def samples(answer: Any) -> Samples:
    """Labels and values of an instant query's answer."""
    if not isinstance(answer, Mapping) or answer.get("status") != "success":
        told = answer.get("error") if isinstance(answer, Mapping) else None
        raise BadAnswer(f"Prometheus could not answer: {told or 'this is no answer of Prometheus'}")
    return [(dict(each["metric"]), float(each["value"][1])) for each in answer["data"]["result"]]


# --- Answers ----------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What one tenant has used of one model. No price, no cost."""

    tenant: str
    tier: str
    model: str
    requests: int = 0
    input: int = 0
    output: int = 0
    cost: float | None = None


@dataclass
class Usage:
    """All of it, for a period."""

    period: str
    currency: str
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    left: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def usage(period: Period, answers: Mapping[str, Samples], prices: Mapping[str, Data | None], currency: str) -> Usage:
    """Rows by tenant, tier and model, with what they cost.

    :param prices: public name of a model -> its price of a million tokens, or None.
    """
    rows: dict[tuple[str, str, str], Row] = {}

    def row(labels: Mapping[str, str]) -> Row:
        key = (labels.get("tenant_id", ""), labels.get("tenant_tier", ""), labels.get("gen_ai_original_model", ""))
        return rows.setdefault(key, Row(*key))

    exact: dict[int, list[float]] = {}
    for labels, value in answers["tokens"]:
        kind = labels.get("gen_ai_token_type")
        # Tokens that came from a cache are a part of the input.
        if kind in ("input", "output"):
            mine = row(labels)
            exact.setdefault(id(mine), [0.0, 0.0])[kind == "output"] += value
    for labels, value in answers["requests"]:
        row(labels).requests += round(value)
    for each in rows.values():
        each.input, each.output = (round(value) for value in exact.get(id(each), (0.0, 0.0)))
        price = prices.get(each.model)
        if price:
            each.cost = round((each.input * price["input"] + each.output * price["output"]) / MILLION, 6)
    used = [each for each in rows.values() if each.requests or each.input or each.output]
    refused: dict[str, int] = {}
    for labels, value in answers["refused"]:
        if round(value):
            refused[labels.get("user", "")] = refused.get(labels.get("user", ""), 0) + round(value)
    free = sorted({each.model for each in used if each.cost is None})
    notes = [f"without a price in the inventory: {', '.join(free)}"] if free else []
    ordered = sorted(used, key=lambda each: (each.tenant, each.tier, each.model))
    return Usage(str(period), currency, ordered, dict(sorted(refused.items())), [], notes)


def requests_left(counters: Iterable[Any]) -> list[dict[str, Any]]:
    """What Limitador's counters leave to each tenant, of the route on which least is left.

    After an overshoot ``remaining`` wraps around (Kuadrant/limitador 2.3 and 2.4): more than the limit is nothing.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for counter in counters:
        limit = counter["limit"]
        tenant = next(iter((counter.get("set_variables") or {}).values()), "")
        left = int(counter.get("remaining") or 0)
        entry = {
            "tenant": tenant,
            "what": "requests",
            "window": limit["seconds"],
            "limit": limit["max_value"],
            "left": left if 0 <= left <= limit["max_value"] else 0,
            "resets_in": int(counter.get("expires_in_seconds") or 0),
        }
        key = (tenant, limit["seconds"])
        if tenant and (key not in found or entry["left"] < found[key]["left"]):
            found[key] = entry
    return sorted(found.values(), key=lambda each: (each["tenant"], each["window"]))


def tokens_left(
    tiers: Mapping[str, Data], answers: Mapping[tuple[str, str], Samples], now: datetime
) -> list[dict[str, Any]]:
    """What the tokens of the current windows leave to each tenant that has used any."""
    found = []
    for (tier, window), told in answers.items():
        seconds, limit = window_seconds(window), tiers[tier]["tokens"][window]
        for labels, value in told:
            found.append(
                {
                    "tenant": labels.get("tenant_id", ""),
                    "what": "tokens",
                    "window": seconds,
                    "limit": limit,
                    "left": max(0, limit - round(value)),
                    "resets_in": seconds - int(now.timestamp()) % seconds,
                }
            )
    return sorted(found, key=lambda each: (each["tenant"], each["window"]))


# --- Reports ----------------------------------------------------------------------------------------------------------


def total(rows: Iterable[Row], by: str) -> list[Row]:
    """Rows added up by tenant, tier or model. A part without a price adds nothing to the cost."""
    sums: dict[str, Row] = {}
    for each in rows:
        name = getattr(each, by)
        mine = sums.setdefault(name, Row("", "", ""))
        setattr(mine, by, name)
        _add(mine, each)
    return sorted(sums.values(), key=lambda each: (-(each.input + each.output), getattr(each, by)))


HEAD = ("TENANT", "TIER", "MODEL", "REQUESTS", "TOKENS IN", "TOKENS OUT", "COST")
LEFT = ("TENANT", "OF", "WINDOW", "LIMIT", "LEFT", "RESETS IN")


def _cells(row: Row) -> tuple[str, ...]:
    cost = "-" if row.cost is None else f"{row.cost:,.2f}"
    return row.tenant, row.tier, row.model, f"{row.requests:,}", f"{row.input:,}", f"{row.output:,}", cost


def _left_cells(each: Data) -> tuple[str, ...]:
    return (
        each["tenant"],
        each["what"],
        f"{each['window']} s",
        f"{each['limit']:,}",
        f"{each['left']:,}",
        f"{each['resets_in']} s",
    )


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> list[str]:
    """Lines of a table; the columns from `right` on hold numbers."""
    every = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(wide) if column >= right else cell.ljust(wide)
            for column, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]


def text(found: Usage) -> str:
    """For the terminal."""
    lines = [f"Usage from {found.period}, cost in {found.currency}", ""]
    lines += _columns(HEAD, [*map(_cells, found.rows), _cells(_sum(found.rows))], 3)
    if found.refused:
        told = ", ".join(f"{tenant} {number:,}" for tenant, number in found.refused.items())
        lines += ["", f"Requests over a limit: {told}"]
    if found.left:
        lines += ["", "Left now:", *_columns(LEFT, map(_left_cells, found.left), 2)]
    return "\n".join([*lines, *(["", *(f"Note: {note}" for note in found.notes)] if found.notes else [])]) + "\n"


def _sum(rows: Iterable[Row]) -> Row:
    whole = Row("all", "", "")
    for each in rows:
        _add(whole, each)
    return whole


def _add(whole: Row, part: Row) -> None:
    whole.requests += part.requests
    whole.input += part.input
    whole.output += part.output
    if part.cost is not None:
        whole.cost = round((whole.cost or 0.0) + part.cost, 6)


def as_csv(found: Usage) -> str:
    """One line for each tenant, tier and model, for a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["tenant", "tier", "model", "requests", "tokens_in", "tokens_out", "cost", "currency"])
    for row in found.rows:
        cost = "" if row.cost is None else f"{row.cost:.6f}"
        writer.writerow([row.tenant, row.tier, row.model, row.requests, row.input, row.output, cost, found.currency])
    return out.getvalue()


def as_json(found: Usage) -> str:
    return json.dumps(asdict(found), indent=2) + "\n"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2430;"
    "background:#fff}h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.8rem 0 .5rem}"
    "table{border-collapse:collapse;width:100%}th{text-align:left;font-size:.75rem;color:#5a6675}"
    "th,td{padding:.3rem .8rem .3rem 0;border-bottom:1px solid #e3e7ec}.n{text-align:right}"
    "svg{width:100%;height:auto}.in{fill:#2f6fb3}.out{fill:#e08a2e}text{font:13px system-ui,sans-serif;fill:#1c2430}"
    "@media(prefers-color-scheme:dark){body{background:#14181d;color:#dde3ea}th,td{border-color:#2c343d}"
    "text{fill:#dde3ea}}"
)
_BARS = 15


def _chart(rows: Sequence[Row], by: str) -> str:
    """Bars of tokens in and out."""
    shown = rows[:_BARS]
    most = max((each.input + each.output for each in shown), default=0) or 1
    height, label, width = 26, 230, 900
    parts = [f'<svg viewBox="0 0 {width} {height * len(shown)}" role="img" aria-label="Tokens by {by}">']
    for number, each in enumerate(shown):
        y, room = number * height, width - label - 130
        first, second = (round(room * value / most, 1) for value in (each.input, each.output))
        name, amount = escape(getattr(each, by)[:34]), f"{each.input + each.output:,}"
        parts += [
            f'<text x="0" y="{y + 17}">{name}</text>',
            f'<rect class="in" x="{label}" y="{y + 4}" width="{first}" height="{height - 8}"/>',
            f'<rect class="out" x="{label + first}" y="{y + 4}" width="{second}" height="{height - 8}"/>',
            f'<text x="{label + first + second + 6}" y="{y + 17}">{amount}</text>',
        ]
    return "".join([*parts, "</svg>"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        numbers = (' class="n"' if column >= right else "" for column in range(len(cells)))
        told = (f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(cells, numbers, strict=True))
        return f"<tr>{''.join(told)}</tr>"

    return "\n".join(["<table>", line(head, "th"), *(line(row, "td") for row in rows), "</table>"])


def html(found: Usage) -> str:
    """One page with charts that needs no other file."""
    title = f"Usage from {found.period}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{escape(title)}</h1><p>Cost in {escape(found.currency)}. Bars: tokens in, then tokens out.</p>",
    ]
    for by in ("tenant", "tier", "model"):
        parts += [f"<h2>Tokens by {by}</h2>", _chart(total(found.rows, by), by)]
    parts += [
        "<h2>By tenant, tier and model</h2>",
        _table(HEAD, [*map(_cells, found.rows), _cells(_sum(found.rows))], 3),
    ]
    if found.refused:
        refused = [(tenant, f"{number:,}") for tenant, number in found.refused.items()]
        parts += ["<h2>Requests over a limit</h2>", _table(("TENANT", "REQUESTS"), refused, 1)]
    if found.left:
        parts += ["<h2>Left now</h2>", _table(LEFT, map(_left_cells, found.left), 2)]
    parts += [f"<p>Note: {escape(note)}</p>" for note in found.notes]
    return "\n".join([*parts, "</body></html>"]) + "\n"


FORMS: dict[str, Callable[[Usage], str]] = {"text": text, "csv": as_csv, "json": as_json, "html": html}


def render(found: Mapping[str, Any], form: str = "text") -> str:
    """A result of the module usage_info as a text, CSV, JSON or one HTML page."""
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; known are {', '.join(FORMS)}")
    # Ansible's own containers cannot be copied as a whole.
    known = Usage(
        found["period"],
        found["currency"],
        [Row(**row) for row in found["rows"]],
        dict(found["refused"]),
        [dict(each) for each in found["left"]],
        list(found["notes"]),
    )
    return FORMS[form](known)
