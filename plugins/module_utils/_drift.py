# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what helm has made is still as helm has made it, told by reading alone.

This module util is private to the collection: it may change in any way at any time.

helm-diff compares with what helm has sent, not with what is there, unless it is told to, and that costs a dry-run
write for every object.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import Kube, UnknownKind, in_parallel, title

MANAGED = "app.kubernetes.io/managed-by"

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|[MGTPE]i?|Ki)?")
_UNITS = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000), "Ki": Decimal(1024)} | {
    unit + suffix: Decimal(base) ** power
    for power, unit in enumerate("MGTPE", start=2)
    for suffix, base in (("", 1000), ("i", 1024))
}


@dataclass
class Drift:
    """Objects of a release, as kind, namespace and name, that are gone, or have other values than helm gave them."""

    missing: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.other)


def drift(kube: Kube, namespace: str, bodies: Iterable[Mapping[str, Any]]) -> Drift:
    """Hold the objects of a manifest against the live ones; the namespace is for those that name none."""

    def look(body: Mapping[str, Any]) -> tuple[str, bool | None]:
        inside, name = body["metadata"].get("namespace", namespace), body["metadata"]["name"]
        try:
            resource = kube.resource(body["apiVersion"], body["kind"])
        except UnknownKind:
            return title(body["kind"], inside, name), None
        live = kube.get(resource.path(inside, name))
        known = title(body["kind"], inside if resource.namespaced else None, name)
        return known, None if live is None else as_made(without_scale(sent(body), live), live)

    found = Drift()
    for outcome in in_parallel(look, list(bodies), kube.workers):
        if outcome.error is not None:
            raise outcome.error
        if outcome.result is None:
            continue
        name, same = outcome.result
        if same is None:
            found.missing.append(name)
        elif not same:
            found.other.append(name)
    return found


def sent(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object of a manifest without the label that helm writes over (helm/helm v3.19.5 pkg/action/validate.go)."""
    metadata = body["metadata"]
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != MANAGED}
    return stored({**body, "metadata": {**metadata, "labels": labels or None}})


def stored(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object as the server keeps it: a Secret's text is data there."""
    if body.get("kind") != "Secret" or not body.get("stringData"):
        return dict(body)
    text = {key: base64.b64encode(str(value).encode()).decode() for key, value in body["stringData"].items()}
    rest = {key: value for key, value in body.items() if key != "stringData"}
    return {**rest, "data": {**(body.get("data") or {}), **text}}


def without_scale(body: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """The object without its number of replicas, where an autoscaler has set that: it is no drift, and must stay."""
    scaled = any(
        each.get("subresource") == "scale" and each.get("manager") == "kube-controller-manager"
        for each in (live.get("metadata") or {}).get("managedFields") or []
    )
    if not scaled:
        return dict(body)
    return {**body, "spec": {key: value for key, value in (body.get("spec") or {}).items() if key != "replicas"}}


def as_made(wanted: Any, live: Any) -> bool:
    """Whether a live object still has what a manifest gave it.

    What others add does not count, nor does an empty value that the server drops, nor how it writes a quantity.
    """
    if wanted is None:
        return True
    if isinstance(wanted, Mapping):
        found = live if isinstance(live, Mapping) else {}
        return all(as_made(value, found.get(key)) for key, value in wanted.items())
    named = _by_name(wanted)
    if named:
        # Containers, variables, ports: others may have added some of their own.
        found = _by_name(live)
        return all(as_made(value, found.get(name)) for name, value in named.items())
    if isinstance(wanted, list) and wanted:
        same_length = isinstance(live, list) and len(live) == len(wanted)
        return same_length and all(map(as_made, wanted, live))
    if not wanted:
        return not live
    return str(live) == str(wanted) or (_quantity(wanted) is not None and _quantity(live) == _quantity(wanted))


def _by_name(value: Any) -> dict[str, Any]:
    """A list of objects with names of their own, by these; empty for anything else."""
    if not isinstance(value, list) or not all(isinstance(each, Mapping) and "name" in each for each in value):
        return {}
    named = {each["name"]: each for each in value}
    return named if len(named) == len(value) else {}


def _quantity(value: Any) -> Decimal | None:
    """A Kubernetes quantity as a number: 1000m and 1 are the same."""
    found = _QUANTITY.fullmatch(str(value))
    return Decimal(found[1]) * _UNITS[found[2] or ""] if found else None
