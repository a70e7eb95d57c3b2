# SPDX-License-Identifier: GPL-3.0-or-later
"""Which counters a request touches, and what the limit headers say. Pure functions."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence

from .counters import Counter, CounterState, Window, WindowState
from .expressions import ExpressionError, Scope, text_of
from .model import GlobalLimits, GlobalRule, HeaderSelector, Limit, LimitSet, RequestView
from .routing import envoy_matches

UNITS = {"Second": 1, "Minute": 60, "Hour": 3600, "Day": 86400, "Month": 2592000, "Year": 31536000}


# --- Limitador ------------------------------------------------------------------------------------


def counters_of(namespace: str, limit: Limit, scope: Scope) -> list[Counter]:
    """One counter per rate. The maximum is not part of the identity: a changed maximum keeps the count."""
    values = {expression.source: text_of(expression.evaluate(scope)) for expression in limit.counters}
    return [
        Counter(
            key=f"namespace:{{{namespace}}},counter:"
            + json.dumps([limit.policy, limit.name, rate.seconds, values], sort_keys=True, separators=(",", ":")),
            maximum=rate.limit,
            seconds=rate.seconds,
            name=limit.name,
        )
        for rate in limit.rates
    ]


def matching_limits(limits: LimitSet, scope: Scope) -> list[Limit]:
    """The limits whose predicates hold. A predicate that cannot be evaluated fails the whole action."""
    return [limit for limit in limits.limits if all(predicate.holds(scope) for predicate in limit.when)]


def request_counters(limits: LimitSet, scope: Scope) -> list[Counter] | None:
    """All counters of a request, or None when the action failed: then nothing is limited."""
    try:
        return [
            counter
            for limit in matching_limits(limits, scope)
            for counter in counters_of(limits.namespace, limit, scope)
        ]
    except ExpressionError:
        return None


def limitador_headers(states: Sequence[CounterState]) -> list[tuple[str, str]]:
    """The headers of draft 03: the tightest limit first, then every limit with its window and name."""
    if not states:
        return []
    ordered = sorted(states, key=lambda state: state.remaining)
    every = "".join(
        f', {state.counter.maximum};w={state.counter.seconds};name="{state.counter.name}"' for state in ordered
    )
    tightest = ordered[0]
    return [
        ("x-ratelimit-limit", f"{tightest.counter.maximum}{every}"),
        ("x-ratelimit-remaining", str(tightest.remaining)),
        ("x-ratelimit-reset", str(int(tightest.expires_in))),
    ]


# --- Envoy Gateway's global limits ----------------------------------------------------------------


def _header_part(selector: HeaderSelector, headers: Mapping[str, str]) -> str | None:
    """What a header selector adds to the counter's name, or None when the rule does not apply."""
    actual = headers.get(selector.name)
    if selector.kind == "Distinct":
        return actual or None
    if selector.kind == "RegularExpression":
        met = actual is not None and selector.regex is not None and selector.regex.fullmatch(actual) is not None
    else:
        met = actual == selector.value
    return "match" if met != selector.invert else None


def _source_part(rule: GlobalRule, peer: str) -> str | None:
    if rule.source is None:
        return ""
    try:
        network = ipaddress.ip_network(rule.source, strict=False)
        inside = ipaddress.ip_address(peer) in network
    except ValueError:
        return None
    if not inside:
        return None
    return f"_{peer}" if rule.source_distinct else f"_{network}"


def window_of(rule: GlobalRule, domain: str, request: RequestView, peer: str) -> Window | None:
    """The counter of a rule for this request; None when one of its selectors does not match."""
    if rule.methods and request.method not in rule.methods:
        return None
    if rule.path is not None and not envoy_matches(rule.path, request):
        return None
    source = _source_part(rule, peer)
    if source is None:
        return None
    key = f"{domain}_{rule.descriptor}{source}"
    for index, selector in enumerate(rule.headers):
        part = _header_part(selector, request.headers)
        if part is None:
            return None
        key += f"_match-{index}_{part}"
    return Window(key, rule.limit, UNITS[rule.unit], rule.shadow)


def request_windows(limits: GlobalLimits, request: RequestView, peer: str) -> list[tuple[Window, int]]:
    """The counters asked before the request goes on, with what it costs at once."""
    found = ((window_of(rule, limits.domain, request, peer), rule.request_cost) for rule in limits.rules)
    return [(window, cost) for window, cost in found if window is not None]


def response_windows(
    limits: GlobalLimits, request: RequestView, peer: str, metadata: Mapping[str, int]
) -> list[tuple[Window, int]]:
    """The counters to add to at the end. A cost that is not in the metadata counts nothing."""
    found = []
    for rule in limits.rules:
        cost = metadata.get(rule.response_key) if rule.response_key is not None else rule.response_number
        window = window_of(rule, limits.domain, request, peer) if cost else None
        if window is not None and cost:
            found.append((window, cost))
    return found


def global_headers(states: Sequence[WindowState]) -> list[tuple[str, str]]:
    if not states:
        return []
    tightest = min(states, key=lambda state: state.remaining)
    every = "".join(f", {state.window.limit};w={state.window.seconds}" for state in states)
    return [
        ("x-ratelimit-limit", f"{tightest.window.limit}{every}"),
        ("x-ratelimit-remaining", str(tightest.remaining)),
        ("x-ratelimit-reset", str(tightest.reset)),
    ]
