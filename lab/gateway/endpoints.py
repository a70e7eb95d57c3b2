# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses behind names: Services, InferencePools, host names; and the small values that documents hold."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from .model import Address
from .objects import Name, Object, Snapshot, is_true, labels_of, matches_labels, name_of

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SIZES = {"": 1, "k": 1000, "Ki": 1024, "M": 1000**2, "Mi": 1024**2, "G": 1000**3, "Gi": 1024**3}


def duration(text: str | None, default: float) -> float:
    if not text:
        return default
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = _DURATION.findall(text)
    return sum(float(number) * units[unit] for number, unit in parts) if parts else default


def quantity(value: Any, default: int) -> int:
    found = re.fullmatch(r"(\d+)(Ki|Mi|Gi|k|M|G)?", str(value or ""))
    return int(found[1]) * _SIZES[found[2] or ""] if found else default


def secret_value(snapshot: Snapshot, namespace: str, name: str, key: str) -> str | None:
    secret = snapshot.get("Secret", namespace, name)
    encoded = ((secret or {}).get("data") or {}).get(key)
    try:
        return base64.b64decode(encoded).decode() if encoded else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def age(obj: Object) -> tuple[str, Name]:
    return obj["metadata"].get("creationTimestamp", ""), name_of(obj)


def _slices(snapshot: Snapshot, namespace: str, service: str) -> Iterator[Object]:
    for item in snapshot.all("EndpointSlice"):
        if name_of(item)[0] == namespace and labels_of(item).get("kubernetes.io/service-name") == service:
            yield item


def service_addresses(snapshot: Snapshot, namespace: str, service: str, port: int | None) -> tuple[Address, ...]:
    """The ready addresses behind a Service's port; an empty tuple when there is none."""
    obj = snapshot.get("Service", namespace, service)
    if obj is None:
        return ()
    ports = (obj.get("spec") or {}).get("ports") or []
    chosen = next((item for item in ports if port is None or item.get("port") == port), None)
    if chosen is None:
        return ()
    found = []
    for item in _slices(snapshot, namespace, service):
        for target in item.get("ports") or []:
            if (target.get("name") or "") != (chosen.get("name") or ""):
                continue
            for endpoint in item.get("endpoints") or []:
                if (endpoint.get("conditions") or {}).get("ready", True):
                    found += [Address(address, target["port"]) for address in endpoint.get("addresses") or []]
    return tuple(sorted(set(found), key=lambda item: (item.host, item.port)))


def resolve(snapshot: Snapshot, host: str, port: int, namespace: str) -> Address | None:
    """A host name as a pod's resolver sees it: a Service's name, an address, or a name outside the cluster."""
    try:
        ipaddress.ip_address(host)
        return Address(host, port)
    except ValueError:
        pass
    parts = host.rstrip(".").split(".")
    if len(parts) == 1:
        parts = [parts[0], namespace]
    if len(parts) == 2 or parts[2:] in (["svc"], ["svc", "cluster", "local"]):
        addresses = service_addresses(snapshot, parts[1], parts[0], port)
        return addresses[0] if addresses else None
    return Address(host, port)


def pool_pods(snapshot: Snapshot, pool: Object) -> tuple[Address, ...]:
    spec = pool.get("spec") or {}
    ports = [item["number"] for item in spec.get("targetPorts") or []]
    if not ports:
        return ()
    found = []
    for pod in snapshot.all("Pod"):
        status = pod.get("status") or {}
        if (
            name_of(pod)[0] == name_of(pool)[0]
            and matches_labels(labels_of(pod), spec.get("selector") or {})
            and status.get("podIP")
            and is_true(status.get("conditions"), "Ready")
            and not pod["metadata"].get("deletionTimestamp")
        ):
            found.append(Address(status["podIP"], ports[0]))
    return tuple(sorted(found, key=lambda item: item.host))
