# SPDX-License-Identifier: GPL-3.0-or-later
"""What was last seen of the cluster, and the questions that controllers ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
Key = tuple[str, str]
DEAD_AFTER = 25.0  # seconds without a heartbeat; kubelets renew every ten


def parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def key_of(obj: Json) -> Key:
    meta = obj["metadata"]
    return meta.get("namespace") or "", meta["name"]


def condition(obj: Json | None, kind: str) -> Json:
    """One condition of an object's status, or an empty one."""
    found = ((obj or {}).get("status") or {}).get("conditions") or []
    return next((item for item in found if item["type"] == kind), {})


def is_true(obj: Json | None, kind: str) -> bool:
    return condition(obj, kind).get("status") == "True"


def runs(deployment: Json | None) -> bool:
    """Whether a Deployment is Available with pods: one that is scaled to nothing says that it is Available too."""
    return is_true(deployment, "Available") and (deployment or {}).get("spec", {}).get("replicas", 1) > 0


def labels(obj: Json) -> dict[str, str]:
    return obj["metadata"].get("labels") or {}


def notes(obj: Json) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def deleting(obj: Json) -> bool:
    return bool(obj["metadata"].get("deletionTimestamp"))


def created(obj: Json) -> tuple[str, str, str]:
    """Sorts objects oldest first, as Gateway API resolves conflicts."""
    meta = obj["metadata"]
    return meta.get("creationTimestamp", ""), meta.get("namespace", ""), meta["name"]


class Store:
    """Objects by kind and name, as of `now`."""

    def __init__(self, objects: Iterable[Json] = (), now: datetime | None = None) -> None:
        self.kinds: dict[str, dict[Key, Json]] = {}
        self.now = now or datetime.now(UTC)
        for obj in objects:
            self.put(obj["kind"], obj)

    # --- changes
    def put(self, kind: str, obj: Json) -> None:
        self.kinds.setdefault(kind, {})[key_of(obj)] = obj

    def drop(self, kind: str, key: Key) -> None:
        self.kinds.get(kind, {}).pop(key, None)

    def replace(self, kind: str, objects: Iterable[Json]) -> None:
        self.kinds[kind] = {key_of(obj): obj for obj in objects}

    # --- questions
    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        return self.kinds.get(kind, {}).get((namespace or "", name))

    def all(self, kind: str, namespace: str | None = None) -> list[Json]:
        found = self.kinds.get(kind, {})
        return [obj for (space, _), obj in found.items() if namespace is None or space == namespace]

    def select(self, kind: str, namespace: str | None, wanted: dict[str, str]) -> Iterator[Json]:
        """Objects of a kind that carry these labels."""
        return (obj for obj in self.all(kind, namespace) if wanted.items() <= labels(obj).items())

    def has_crds(self, *names: str) -> bool:
        return all(self.get("CustomResourceDefinition", "", name) for name in names)

    def controller(self, name: str) -> Json | None:
        """The Deployment of this name, in whatever namespace it was installed, when it runs."""
        return next(
            (
                obj
                for (_, found), obj in self.kinds.get("Deployment", {}).items()
                if found == name and runs(obj) and not deleting(obj)
            ),
            None,
        )

    def pods_of(self, deployment: Json) -> list[Json]:
        wanted = deployment["spec"]["selector"]["matchLabels"].items()
        return [
            pod
            for pod in self.all("Pod", deployment["metadata"]["namespace"])
            if wanted <= labels(pod).items() and not deleting(pod)
        ]

    def started_at(self, deployment: Json) -> datetime | None:
        """When the process of a controller that runs as one ready pod began."""
        times = [
            parse_time(status.get("state", {}).get("running", {}).get("startedAt"))
            for pod in self.pods_of(deployment)
            if is_true(pod, "Ready")
            for status in (pod.get("status") or {}).get("containerStatuses") or []
        ]
        return max((time for time in times if time), default=None)

    def crds_older_than(self, moment: datetime, *names: str) -> bool:
        """Whether a controller that looked for these CRDs at `moment` found them all."""
        crds = [self.get("CustomResourceDefinition", "", name) for name in names]
        births = [parse_time(crd["metadata"]["creationTimestamp"]) for crd in crds if crd]
        return len(births) == len(names) and all(birth is not None and birth <= moment for birth in births)

    def endpoints(self, namespace: str, service: str) -> list[str]:
        """Addresses that are ready behind a Service."""
        return [
            address
            for part in self.all("EndpointSlice", namespace)
            if labels(part).get("kubernetes.io/service-name") == service
            for endpoint in part.get("endpoints") or []
            if (endpoint.get("conditions") or {}).get("ready")
            for address in endpoint.get("addresses") or []
        ]

    def node_alive(self, name: str) -> bool:
        """Whether the node's kubelet was heard of lately (its Lease), and says it is Ready."""
        if not is_true(self.get("Node", "", name), "Ready"):
            return False
        lease = self.get("Lease", "kube-node-lease", name)
        renewed = parse_time(((lease or {}).get("spec") or {}).get("renewTime"))
        return renewed is None or (self.now - renewed).total_seconds() < DEAD_AFTER
