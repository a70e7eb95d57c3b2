# SPDX-License-Identifier: GPL-3.0-or-later
"""Which route takes a request (as Envoy decides), and which of Kuadrant's action sets (as its filter decides)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from .expressions import query_map
from .model import ActionSet, ClientSettings, Match, PathType, RequestView, RouteEntry, ValueMatch, VirtualHosts

_ESCAPED_SLASH = re.compile(r"%2f|%5c", re.IGNORECASE)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Normalised:
    path: str = ""
    redirect: str | None = None
    rejected: bool = False


def _decode_unreserved(path: str) -> str:
    def decoded(match: re.Match[str]) -> str:
        code = int(match[1], 16)
        return chr(code) if code in _UNRESERVED else match[0].upper()

    return _ESCAPE.sub(decoded, path)


def _resolve_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == "." or segment == "..":
            if segment == ".." and kept:
                kept.pop()
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)


def normalise_path(path: str, settings: ClientSettings) -> Normalised:
    """Envoy's path transformations, in its order: escaped slashes, dots, double slashes."""
    if not path.startswith("/"):
        return Normalised(rejected=True)
    redirect = False
    if settings.escaped_slashes != "KeepUnchanged" and _ESCAPED_SLASH.search(path):
        if settings.escaped_slashes == "RejectRequest":
            return Normalised(rejected=True)
        path = _ESCAPED_SLASH.sub(lambda found: unquote(found[0]), path)
        redirect = settings.escaped_slashes == "UnescapeAndRedirect"
    path = _resolve_dots(_decode_unreserved(path.replace("\\", "/")))
    if settings.merge_slashes:
        path = re.sub(r"/{2,}", "/", path)
    return Normalised(path=path, redirect=path if redirect else None)


# --- Envoy ----------------------------------------------------------------------------------------


def _path_matches(match: Match, path: str) -> bool:
    if match.path_type is PathType.EXACT:
        return path == match.path
    if match.path_type is PathType.REGEX:
        return match.regex is not None and match.regex.fullmatch(path) is not None
    prefix = match.path.rstrip("/")
    return not prefix or path == prefix or path.startswith(prefix + "/")


def _values_match(wanted: Iterable[ValueMatch], actual: Mapping[str, Any]) -> bool:
    return all(item.matches(actual.get(item.name)) for item in wanted)


def envoy_matches(match: Match, request: RequestView) -> bool:
    return (
        _path_matches(match, request.path)
        and (match.method is None or match.method == request.method)
        and _values_match(match.headers, request.headers)
        and (not match.query or _values_match(match.query, query_map(request.query, first_only=True)))
    )


def precedence(match: Match) -> tuple[int, int, int, int, int]:
    """Sorts the strongest match first: exact paths, then longer ones, then method, headers, query."""
    order = {PathType.EXACT: 0, PathType.REGEX: 1, PathType.PREFIX: 2}
    return (
        order[match.path_type],
        -len(match.path),
        0 if match.method else 1,
        -len(match.headers),
        -len(match.query),
    )


def without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if ":" in host else host


def entries_for(hosts: VirtualHosts, host: str) -> tuple[RouteEntry, ...] | None:
    """The virtual host for a Host header: case and port do not matter, a trailing dot does."""
    name = without_port(host).lower()
    if name in hosts.exact:
        return hosts.exact[name]
    for suffix, entries in hosts.wildcard:
        if name.endswith(suffix) and len(name) > len(suffix):
            return entries
    return hosts.default


def find_route(hosts: VirtualHosts, request: RequestView) -> RouteEntry | None:
    for entry in entries_for(hosts, request.host) or ():
        if envoy_matches(entry.match, request):
            return entry
    return None


def build_virtual_hosts(entries: Mapping[str, Sequence[RouteEntry]]) -> VirtualHosts:
    exact, wildcard, default = {}, [], None
    for host, members in entries.items():
        routes = tuple(members)
        if host == "*":
            default = routes
        elif host.startswith("*."):
            wildcard.append((host[1:].lower(), routes))
        else:
            exact[host.lower()] = routes
    wildcard.sort(key=lambda item: -len(item[0]))
    return VirtualHosts(exact, tuple(wildcard), default)


# --- Kuadrant -------------------------------------------------------------------------------------


def kuadrant_matches(match: Match, request: RequestView) -> bool:
    """The predicates that Kuadrant writes for a match: its prefixes are plain text prefixes."""
    if match.path_type is PathType.EXACT:
        path = request.path == match.path
    elif match.path_type is PathType.REGEX:
        path = match.regex is not None and match.regex.search(request.path) is not None
    else:
        path = request.path.startswith(match.path)
    return (
        path
        and (match.method is None or match.method == request.method)
        and _values_match(match.headers, request.headers)
        and (not match.query or _values_match(match.query, query_map(request.query, first_only=True)))
    )


def find_action_set(index: Mapping[str, Sequence[ActionSet]], request: RequestView) -> ActionSet | None:
    """The filter looks its configuration up by the Host **as the client wrote it**.

    A host that Envoy matches without regard to case is thus unknown here in upper case, and a request
    for which no action set is found passes without authentication and without limits.
    """
    host = request.host.partition(":")[0]
    candidates = index.get(host)
    if candidates is None:
        labels = host.split(".")
        for start in range(1, len(labels)):
            candidates = index.get("*." + ".".join(labels[start:]))
            if candidates is not None:
                break
        else:
            candidates = index.get("*")
    for action_set in candidates or ():
        if kuadrant_matches(action_set.match, request):
            return action_set
    return None
