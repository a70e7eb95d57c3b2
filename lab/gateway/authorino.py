# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorino's part: the API keys it holds in memory, and its verdict on a request."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any

from . import jwt
from .expressions import ExpressionError, Scope, query_map, select, text_of
from .model import AuthRules, Credentials, Denial, Identity, Pattern, RequestView, Success, ValueSource
from .objects import Name, Object, labels_of, matches_labels, name_of

MANAGED_BY = ("authorino.kuadrant.io/managed-by", "authorino")
KEY = "api_key"


def key_of(secret: Mapping[str, Any]) -> str:
    encoded = (secret.get("data") or {}).get(KEY)
    if not encoded:
        return ""
    try:
        return base64.b64decode(encoded).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        return ""


def managed(secret: Mapping[str, Any] | None) -> bool:
    return secret is not None and labels_of(secret).get(MANAGED_BY[0]) == MANAGED_BY[1]


@dataclass
class KeyRing:
    """The keys of one identity of one AuthConfig: key value -> the Secret **as it was when it was taken in**.

    A changed Secret with an unchanged key is not taken in again, so a changed annotation (the tier) has no
    effect; and a key that two Secrets hold belongs to the one seen last, whose removal takes it away.
    """

    selector: Mapping[str, Any]
    namespace: str | None
    secrets: dict[str, Object] = field(default_factory=dict)
    # The key under which a Secret is held, by the Secret's name.
    held: dict[Name, str] = field(default_factory=dict)

    def rebuild(self, secrets: Iterable[Object]) -> None:
        """What happens when the AuthConfig is built: a list by the policy's selector alone."""
        self.secrets, self.held = {}, {}
        for secret in secrets:
            if self._in_scope(name_of(secret)) and matches_labels(labels_of(secret), self.selector):
                self._take_in(secret)

    def event(self, name: Name, secret: Object | None) -> None:
        """What happens on a watch event: Authorino watches only the Secrets with its managed-by label."""
        if not self._in_scope(name):
            return
        held = self.held.get(name)
        if secret is None or not managed(secret) or not matches_labels(labels_of(secret), self.selector):
            self._drop(held)
        elif held is None:
            self._take_in(secret)
        elif held != key_of(secret):
            self._drop(held)
            self._take_in(secret)

    def _in_scope(self, name: Name) -> bool:
        return self.namespace is None or name[0] == self.namespace

    def _drop(self, key: str | None) -> None:
        if key is not None:
            del self.held[name_of(self.secrets.pop(key))]

    def _take_in(self, secret: Object) -> None:
        if value := key_of(secret):
            if value in self.secrets:
                self._drop(value)
            self.secrets[value] = secret
            self.held[name_of(secret)] = value


class KeyRings:
    """All key rings, kept from one configuration to the next as long as their AuthConfig stays the same."""

    def __init__(self) -> None:
        self._rings: dict[tuple[str, str], KeyRing] = {}
        self._signatures: dict[str, str] = {}
        self._pods: frozenset[str] = frozenset()

    def configure(
        self,
        rules: Sequence[AuthRules],
        namespace: str,
        secrets: Callable[[], Iterable[Object]],
        pods: frozenset[str] = frozenset(),
    ) -> None:
        """Build what is new or changed. All is built again when no pod of before is left: a restart."""
        restarted = bool(pods) and not pods & self._pods
        if pods:
            self._pods = pods
        wanted = {rule.key: rule for rule in rules}
        for key in set(self._signatures) - set(wanted):
            self._forget(key)
        for key, rule in wanted.items():
            if self._signatures.get(key) == rule.signature and not restarted:
                continue
            self._forget(key)
            self._signatures[key] = rule.signature
            for identity in rule.identities:
                if identity.kind == "api_key":
                    ring = KeyRing(identity.selector, None if identity.all_namespaces else namespace)
                    ring.rebuild(secrets())
                    self._rings[key, identity.name] = ring

    def event(self, name: Name, secret: Object | None) -> None:
        for ring in self._rings.values():
            ring.event(name, secret)

    def find(self, rules: AuthRules, identity: Identity, key: str) -> Object | None:
        ring = self._rings.get((rules.key, identity.name))
        return ring.secrets.get(key) if ring else None

    def _forget(self, key: str) -> None:
        self._signatures.pop(key, None)
        for ring in [ring for ring in self._rings if ring[0] == key]:
            del self._rings[ring]


@dataclass(frozen=True)
class Verdict:
    allowed: bool
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    # When allowed: headers set on the request, and what later filters see as ``auth``.
    set_headers: tuple[tuple[str, str], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


def request_variables(request: RequestView, peer: str, size: int = -1) -> dict[str, Any]:
    """The attributes of a request under the names that policies use."""
    return {
        "request": {
            "method": request.method,
            "host": request.host,
            "scheme": "http",
            "path": request.full_path,
            "url_path": request.path,
            "query": request.query,
            "headers": dict(request.headers),
            "protocol": "HTTP/1.1",
            "size": size,
            "useragent": request.headers.get("user-agent", ""),
            "referer": request.headers.get("referer", ""),
            "id": request.headers.get("x-request-id", ""),
        },
        "source": {"address": peer, "remote_address": peer.rpartition(":")[0], "port": 0},
        "destination": {"address": "", "port": 0},
    }


def credential_in(request: RequestView, credentials: Credentials) -> str | None:
    """The credential, by exact and case-sensitive comparison with the prefix."""
    if credentials.place == "custom_header":
        return request.headers.get(credentials.key.lower())
    if credentials.place == "query":
        value = query_map(request.query, first_only=True).get(credentials.key)
        return value or None
    if credentials.place == "cookie":
        try:
            cookies = SimpleCookie(request.headers.get("cookie", ""))
        except CookieError:
            return None
        return cookies[credentials.key].value if credentials.key in cookies else None
    header, prefix = request.headers.get("authorization", ""), credentials.key + " "
    return header[len(prefix) :] if header.startswith(prefix) else None


def patterns_hold(patterns: Iterable[Pattern], scope: Scope) -> bool:
    """All of them; an expression that fails counts as not fulfilled."""
    return all(_pattern_holds(pattern, scope) for pattern in patterns)


def _pattern_holds(pattern: Pattern, scope: Scope) -> bool:
    if pattern.invalid:
        return False
    if pattern.every is not None:
        return patterns_hold(pattern.every, scope)
    if pattern.some is not None:
        return any(_pattern_holds(item, scope) for item in pattern.some)
    if pattern.predicate is not None:
        try:
            return pattern.predicate.holds(scope)
        except ExpressionError:
            return False
    actual = select(pattern.selector or "", scope.variables)
    if pattern.operator in ("incl", "excl"):
        members = [text_of(item) for item in actual] if isinstance(actual, list) else [text_of(actual)]
        return (pattern.value in members) == (pattern.operator == "incl")
    text = text_of(actual)
    if pattern.operator == "eq":
        return text == pattern.value
    if pattern.operator == "neq":
        return text != pattern.value
    if pattern.operator == "matches":
        try:
            return re.search(pattern.value, text) is not None
        except re.error:
            return False
    return False


def value_of(source: ValueSource, scope: Scope) -> Any:
    if source.expression is not None:
        return source.expression.evaluate(scope)
    if source.selector is not None:
        return select(source.selector, scope.variables)
    return source.value


def go_bytes(value: Any) -> str:
    """A static plain header value, as Authorino 0.26 prints it: the JSON's bytes as a list of numbers."""
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return "[" + " ".join(str(byte) for byte in raw) + "]"


def _with_extras(identity: Identity, obj: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    extended = dict(obj)
    for name, source in identity.defaults:
        if name not in extended:
            extended[name] = value_of(source, scope)
    for name, source in identity.overrides:
        extended[name] = value_of(source, scope)
    return extended


def _identify(
    rules: AuthRules, request: RequestView, scope: Scope, rings: KeyRings, issuers: jwt.Issuers
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The first identity that accepts the request, or each one's reason to refuse it."""
    reasons: dict[str, str] = {}
    for identity in sorted(rules.identities, key=lambda item: item.priority):
        if not patterns_hold(identity.when, scope):
            continue
        if identity.kind == "anonymous":
            found: Mapping[str, Any] = {"anonymous": True}
        elif identity.kind == "api_key":
            credential = credential_in(request, identity.credentials)
            if credential is None:
                reasons[identity.name] = "credential not found"
                continue
            secret = rings.find(rules, identity, credential)
            if secret is None:
                reasons[identity.name] = "the API Key provided is invalid"
                continue
            found = secret
        elif identity.kind == "jwt":
            credential = credential_in(request, identity.credentials)
            if credential is None:
                reasons[identity.name] = "credential not found"
                continue
            try:
                found = issuers.claims(identity.issuer, credential)
            except jwt.Refused as error:
                reasons[identity.name] = str(error)
                continue
        else:
            reasons[identity.name] = "credential not found"
            continue
        try:
            return _with_extras(identity, found, scope.extended(auth={"identity": dict(found)})), {}
        except ExpressionError as error:
            reasons[identity.name] = str(error).partition(": ")[2] or "failed to resolve"
    return None, reasons


def _deny(denial: Denial, scope: Scope, reason: str, extra: Sequence[tuple[str, str]] = ()) -> Verdict:
    def text(source: ValueSource) -> str:
        try:
            return text_of(value_of(source, scope))
        except ExpressionError:
            return ""

    headers = [(name.lower(), text(source)) for name, source in denial.headers]
    message = text(denial.message) if denial.message else reason
    body = text(denial.body) if denial.body else ""
    return Verdict(False, denial.code, (*headers, *extra, ("x-ext-auth-reason", message)), body)


def _item(success: Success, scope: Scope) -> str | dict[str, Any]:
    if success.properties is not None:
        return {name: value_of(source, scope) for name, source in success.properties}
    if success.plain is None:
        return ""
    if success.plain.has_value:
        return go_bytes(success.plain.value)
    return text_of(value_of(success.plain, scope))


def applies(rules: AuthRules, request: RequestView, peer: str) -> bool:
    """Whether the policy's own conditions send the request to Authorino at all."""
    return not rules.when or patterns_hold(rules.when, Scope(request_variables(request, peer)))


def check(rules: AuthRules, request: RequestView, peer: str, rings: KeyRings, issuers: jwt.Issuers) -> Verdict:
    """Identity, authorisation, response; as Authorino goes through its phases."""
    scope = Scope(request_variables(request, peer))
    identity, reasons = _identify(rules, request, scope, rings, issuers)
    if identity is None:
        reason = next(iter(reasons.values())) if len(reasons) == 1 else json.dumps(reasons, separators=(",", ":"))
        challenge = [
            ("www-authenticate", f'{item.credentials.key} realm="{item.name}"')
            for item in rules.identities
            if item.kind != "anonymous"
        ]
        return _deny(rules.unauthenticated, scope, reason, challenge)
    scope = scope.extended(auth={"identity": identity})
    for rule in sorted(rules.authorizations, key=lambda item: item.priority):
        if not patterns_hold(rule.when, scope):
            continue
        if not rule.supported or not patterns_hold(rule.patterns, scope):
            return _deny(rules.unauthorized, scope, "Unauthorized")
    headers: list[tuple[str, str]] = []
    metadata: dict[str, Any] = {}
    for success in (*rules.headers, *rules.metadata):
        if not patterns_hold(success.when, scope):
            continue
        try:
            item = _item(success, scope)
        except ExpressionError:
            continue
        if success in rules.headers:
            text = item if isinstance(item, str) else json.dumps(item, separators=(",", ":"))
            headers.append((success.name.lower(), text))
        else:
            metadata[success.name] = (
                {name: text_of(value) for name, value in item.items()} if isinstance(item, dict) else item
            )
    return Verdict(True, set_headers=tuple(headers), metadata=metadata)
