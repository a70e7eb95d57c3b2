# SPDX-License-Identifier: GPL-3.0-or-later
"""Kuadrant's policies: which one is in force for a route's rule, merged along Gateway, listener, route and rule."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .expressions import Expression, ExpressionError, parse
from .model import (
    Authorization,
    AuthRules,
    Credentials,
    Denial,
    Identity,
    Limit,
    LimitSet,
    Pattern,
    Rate,
    Success,
    ValueSource,
)
from .objects import Object, Snapshot, condition, name_of

Spec = Mapping[str, Any]

_WINDOW = re.compile(r"(\d{1,5})(h|ms|m|s)")
_WAITING = re.compile(r"waiting for .*\[(Authorino|Limitador)\]")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def in_force(policy: Object) -> bool:
    """Enforced; or said to wait for nothing but Authorino or Limitador: the filter has the policy by then,
    and whether the component answers shows when it is asked."""
    found = condition((policy.get("status") or {}).get("conditions"), "Enforced")
    if found is None:
        return False
    return found.get("status") == "True" or _WAITING.search(found.get("message") or "") is not None


def seconds_of(window: str) -> int:
    return int(sum(int(number) * _SECONDS[unit] for number, unit in _WINDOW.findall(window)))


# --- Effective policies ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A point on the way from the Gateway to a rule, to which a policy can be attached."""

    kind: str
    namespace: str
    name: str
    section: str | None = None


def policies_at(snapshot: Snapshot, kind: str, place: Place) -> list[Object]:
    """The policies in force at a place, the oldest first."""
    found = []
    for policy in snapshot.all(kind):
        target = (policy.get("spec") or {}).get("targetRef") or {}
        if (
            target.get("kind") == place.kind
            and target.get("name") == place.name
            and name_of(policy)[0] == place.namespace
            and target.get("sectionName") == place.section
            and in_force(policy)
        ):
            found.append(policy)
    return sorted(found, key=lambda policy: (policy["metadata"].get("creationTimestamp", ""), name_of(policy)))


def _rules_of(kind: str, proper: Spec, source: str) -> dict[str, Any]:
    """A policy's rules as a flat map, so that they merge name by name. ``source`` says whose each rule is."""
    rules: dict[str, Any] = {}
    if kind == "AuthPolicy":
        sections = proper.get("rules") or {}
        for section in ("authentication", "authorization", "metadata", "callbacks"):
            for name, rule in (sections.get(section) or {}).items():
                rules[f"{section}#{name}"] = rule
        response = sections.get("response") or {}
        for section in ("unauthenticated", "unauthorized"):
            if section in response:
                rules[f"response.{section}#"] = response[section]
        for section in ("headers", "filters"):
            for name, rule in ((response.get("success") or {}).get(section) or {}).items():
                rules[f"response.{section}#{name}"] = rule
        for name, rule in (proper.get("patterns") or {}).items():
            rules[f"patterns#{name}"] = rule
    else:
        for name, rule in (proper.get("limits") or {}).items():
            rules[f"limits#{name}"] = {**rule, "__policy": source}
    if proper.get("when"):
        rules["when#"] = proper["when"]
    return rules


@dataclass(frozen=True)
class Part:
    """One policy on the way: its rules, whether they win over more specific ones, and how they merge."""

    rules: Mapping[str, Any]
    overrides: bool
    merge: bool


def part_of(kind: str, policy: Object) -> Part:
    spec = policy.get("spec") or {}
    source = "/".join(name_of(policy))
    for field, overrides in (("overrides", True), ("defaults", False)):
        if field in spec:
            proper = spec[field] or {}
            return Part(_rules_of(kind, proper, source), overrides, proper.get("strategy") == "merge")
    return Part(_rules_of(kind, spec, source), overrides=False, merge=False)


def effective(parts: Sequence[Part]) -> dict[str, Any] | None:
    """Merge from the least to the most specific part; None when there is none."""
    if not parts:
        return None
    result = parts[-1]
    for parent in reversed(parts[:-1]):
        if parent.overrides:
            rules = {**result.rules, **parent.rules} if parent.merge else dict(parent.rules)
        else:
            rules = {**parent.rules, **result.rules} if parent.merge else dict(result.rules)
        result = Part(rules, parent.overrides, parent.merge)
    return dict(result.rules)


def effective_at(snapshot: Snapshot, kind: str, way: Iterable[Place]) -> dict[str, Any] | None:
    parts = []
    for place in way:
        parts += [part_of(kind, policy) for policy in policies_at(snapshot, kind, place)[:1]]
    return effective(parts)


def _section(rules: Mapping[str, Any], section: str) -> dict[str, Any]:
    prefix = section + "#"
    return {name[len(prefix) :]: rule for name, rule in sorted(rules.items()) if name.startswith(prefix)}


# --- AuthPolicy -----------------------------------------------------------------------------------


def _source(spec: Mapping[str, Any] | None) -> ValueSource:
    spec = spec or {}
    try:
        expression = parse(spec["expression"]) if spec.get("expression") else None
        return ValueSource(spec.get("value"), "value" in spec, expression, spec.get("selector"))
    except ExpressionError:
        # An expression that does not parse never resolves: evaluating an unknown name fails the same way.
        return ValueSource(expression=parse("unresolvable"))


def _pattern(spec: Mapping[str, Any], named: Mapping[str, Any]) -> list[Pattern]:
    if "patternRef" in spec:
        reference = named.get(spec["patternRef"]) or {}
        return list(_patterns(reference.get("allOf") or [], named)) or [Pattern(invalid=True)]
    if "predicate" in spec:
        try:
            return [Pattern(predicate=parse(spec["predicate"]))]
        except ExpressionError:
            return [Pattern(invalid=True)]
    if "all" in spec:
        return [Pattern(every=_patterns(spec["all"], named))]
    if "any" in spec:
        return [Pattern(some=_patterns(spec["any"], named))]
    if "selector" in spec:
        return [Pattern(selector=spec["selector"], operator=spec.get("operator", ""), value=str(spec.get("value", "")))]
    return [Pattern(invalid=True)]


def _patterns(specs: Iterable[Mapping[str, Any]] | None, named: Mapping[str, Any]) -> tuple[Pattern, ...]:
    return tuple(pattern for spec in specs or [] for pattern in _pattern(spec, named))


def _credentials(spec: Mapping[str, Any] | None) -> Credentials:
    spec = spec or {}
    if "customHeader" in spec:
        return Credentials("custom_header", spec["customHeader"]["name"])
    if "queryString" in spec:
        return Credentials("query", spec["queryString"]["name"])
    if "cookie" in spec:
        return Credentials("cookie", spec["cookie"]["name"])
    return Credentials("header", (spec.get("authorizationHeader") or {}).get("prefix") or "Bearer")


def _identity(name: str, spec: Mapping[str, Any], named: Mapping[str, Any]) -> Identity:
    kinds = {"apiKey": "api_key", "jwt": "jwt", "anonymous": "anonymous"}
    kind = next((kinds[key] for key in kinds if key in spec), "unsupported")
    api_key = spec.get("apiKey") or {}
    return Identity(
        name=name,
        kind=kind,
        credentials=_credentials(spec.get("credentials")),
        selector=api_key.get("selector") or {},
        all_namespaces=bool(api_key.get("allNamespaces")),
        when=_patterns(spec.get("when"), named),
        defaults=tuple((key, _source(value)) for key, value in (spec.get("defaults") or {}).items()),
        overrides=tuple((key, _source(value)) for key, value in (spec.get("overrides") or {}).items()),
        priority=spec.get("priority", 0),
        issuer=(spec.get("jwt") or {}).get("issuerUrl") or "",
    )


def _success(name: str, spec: Mapping[str, Any], named: Mapping[str, Any]) -> Success:
    properties = None
    if "json" in spec:
        found = (spec["json"] or {}).get("properties") or {}
        properties = tuple((key, _source(value)) for key, value in found.items())
    return Success(
        name=spec.get("key") or name,
        plain=_source(spec["plain"]) if "plain" in spec else None,
        properties=properties,
        when=_patterns(spec.get("when"), named),
    )


def _denial(spec: Mapping[str, Any] | None, default: int) -> Denial:
    spec = spec or {}
    return Denial(
        code=spec.get("code") or default,
        headers=tuple((name, _source(value)) for name, value in (spec.get("headers") or {}).items()),
        body=_source(spec["body"]) if "body" in spec else None,
        message=_source(spec["message"]) if "message" in spec else None,
    )


@lru_cache(maxsize=256)
def _auth_rules(key: str, document: str) -> AuthRules:
    rules = json.loads(document)
    named = _section(rules, "patterns")
    identities = tuple(_identity(name, spec, named) for name, spec in _section(rules, "authentication").items())
    if not identities:
        identities = (Identity("anonymous", "anonymous"),)
    authorizations = tuple(
        Authorization(
            name=name,
            patterns=_patterns((spec.get("patternMatching") or {}).get("patterns"), named),
            supported="patternMatching" in spec,
            when=_patterns(spec.get("when"), named),
            priority=spec.get("priority", 0),
        )
        for name, spec in _section(rules, "authorization").items()
    )
    return AuthRules(
        key=key,
        signature=hashlib.sha256(document.encode()).hexdigest(),
        identities=identities,
        authorizations=authorizations,
        headers=tuple(_success(name, spec, named) for name, spec in _section(rules, "response.headers").items()),
        metadata=tuple(_success(name, spec, named) for name, spec in _section(rules, "response.filters").items()),
        unauthenticated=_denial(rules.get("response.unauthenticated#"), 401),
        unauthorized=_denial(rules.get("response.unauthorized#"), 403),
        when=_patterns(rules.get("when#"), named),
    )


def auth_rules(key: str, rules: Mapping[str, Any] | None) -> AuthRules | None:
    return None if rules is None else _auth_rules(key, json.dumps(rules, sort_keys=True))


# --- RateLimitPolicy and TokenRateLimitPolicy -----------------------------------------------------


def _predicates(specs: Iterable[Mapping[str, Any]] | None) -> tuple[Expression, ...]:
    return tuple(parse(spec["predicate"]) for spec in specs or [])


def limit_set(namespace: str, rules: Mapping[str, Any] | None) -> LimitSet | None:
    """The limits in the order of their names. One that does not parse is dropped, as the operator does."""
    if rules is None:
        return None
    limits = []
    for name, spec in _section(rules, "limits").items():
        try:
            limits.append(
                Limit(
                    policy=spec["__policy"],
                    name=name,
                    rates=tuple(
                        Rate(max(rate["limit"], 0), seconds_of(rate["window"])) for rate in spec.get("rates") or []
                    ),
                    when=_predicates(rules.get("when#")) + _predicates(spec.get("when")),
                    counters=tuple(parse(counter["expression"]) for counter in spec.get("counters") or []),
                )
            )
        except ExpressionError:
            continue
    needs_auth = any("auth." in expression.source for limit in limits for expression in (*limit.when, *limit.counters))
    return LimitSet(namespace, tuple(limits), needs_auth)
