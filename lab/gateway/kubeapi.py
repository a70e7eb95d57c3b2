# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the API server: discovery, lists and watches, and nothing that writes."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from .objects import Kind, Name, Object, Store, name_of

log = logging.getLogger("lab.gateway.kubeapi")

_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_PAGE = 500


class Gone(Exception):
    """The resource version is too old, or the watch ended: list again."""


class Absent(Exception):
    """The API server does not serve this kind (now)."""


@dataclass(frozen=True)
class Access:
    """Where the API server is, and how to talk to it."""

    server: str
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None


def load_kubeconfig(path: Path) -> Access:
    document = yaml.safe_load(path.read_text())

    def named(section: str, name: str) -> dict[str, Any]:
        key = {"clusters": "cluster", "users": "user", "contexts": "context"}[section]
        return next(item[key] for item in document[section] if item["name"] == name)

    context = named("contexts", document.get("current-context") or document["contexts"][0]["name"])
    cluster, user = named("clusters", context["cluster"]), named("users", context["user"])

    def content(source: Mapping[str, Any], field: str) -> bytes | None:
        if source.get(f"{field}-data"):
            return base64.b64decode(source[f"{field}-data"])
        return (path.parent / source[field]).read_bytes() if source.get(field) else None

    tls = None
    if cluster["server"].startswith("https://"):
        authority = content(cluster, "certificate-authority")
        tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
        if cluster.get("insecure-skip-tls-verify"):
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        certificate, key = content(user, "client-certificate"), content(user, "client-key")
        if certificate and key:
            with tempfile.NamedTemporaryFile() as pair:
                pair.write(certificate + b"\n" + key)
                pair.flush()
                tls.load_cert_chain(pair.name)
    headers = {"Authorization": f"Bearer {user['token']}"} if user.get("token") else {}
    return Access(cluster["server"].rstrip("/"), headers, tls)


class Api:
    """A read-only client."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession(
            headers={"User-Agent": "lab-gateway", **self._access.headers},
            connector=aiohttp.TCPConnector(limit=0, ssl=self._access.tls or True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    def _get(self, path: str, params: Mapping[str, str], read: float | None, accept: str = "application/json") -> Any:
        assert self._session is not None
        return self._session.get(
            self._access.server + path,
            params=params,
            headers={"Accept": accept},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=read),
        )

    async def served(self) -> set[tuple[str, str, str]]:
        """Every (group, version, resource) that the API server serves, in two requests."""
        found: set[tuple[str, str, str]] = set()
        for path in ("/api", "/apis"):
            async with self._get(path, {}, 10, _DISCOVERY) as answer:
                answer.raise_for_status()
                document = await answer.json(content_type=None)
            for group in document.get("items") or []:
                for version in group.get("versions") or []:
                    for resource in version.get("resources") or []:
                        name = group.get("metadata", {}).get("name") or ""
                        found.add((name, version["version"], resource["resource"]))
        return found

    async def pages(self, path: str, selector: Mapping[str, str]) -> AsyncIterator[tuple[list[Object], str]]:
        """A list, page by page, each with the version that the whole list is of."""
        token = ""
        while True:
            params = {**selector, "limit": str(_PAGE), **({"continue": token} if token else {})}
            async with self._get(path, params, 30) as answer:
                if answer.status == 404:
                    raise Absent(path)
                if answer.status == 410:
                    raise Gone(path)
                answer.raise_for_status()
                document = await answer.json(content_type=None)
            meta = document.get("metadata") or {}
            yield document.get("items") or [], meta.get("resourceVersion") or "0"
            token = meta.get("continue") or ""
            if not token:
                return

    async def watch(self, path: str, selector: Mapping[str, str], version: str) -> AsyncIterator[tuple[str, Object]]:
        params = {
            **selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": "300",
        }
        async with self._get(path, params, 360) as answer:
            if answer.status == 404:
                raise Absent(path)
            if answer.status == 410:
                raise Gone(path)
            answer.raise_for_status()
            buffer = bytearray()
            async for chunk in answer.content.iter_any():
                buffer += chunk
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    if not line.strip():
                        continue
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Gone(str((event.get("object") or {}).get("message")))
                    yield event["type"], event["object"]


def path_of(kind: Kind, version: str, namespace: str | None) -> str:
    root = f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{kind.resource}" if namespace else f"{root}/{kind.resource}"


@dataclass(frozen=True)
class Watch:
    """One list and watch: a kind, and what narrows it."""

    kind: Kind
    namespace: str | None = None
    name: str | None = None
    fields: str = ""

    @property
    def selector(self) -> dict[str, str]:
        fields = f"metadata.name={self.name}" if self.name else self.fields
        return {"fieldSelector": fields} if fields else {}

    def covers(self, name: Name) -> bool:
        return self.namespace in (None, name[0]) and self.name in (None, name[1])


class Mirror:
    """Keeps a store like the cluster, for a set of watches that may change at any time."""

    RETRY = 1.0

    def __init__(self, api: Api, store: Store) -> None:
        self._api, self._store = api, store
        self._served: set[tuple[str, str, str]] = set()
        self._tasks: dict[Watch, asyncio.Task[None]] = {}
        self._listed: set[Watch] = set()

    @property
    def ready(self) -> bool:
        """Whether every kind that is served has been listed once."""
        return bool(self._served) and all(
            watch in self._listed for watch in self._tasks if self._version(watch.kind) is not None
        )

    async def discover(self) -> None:
        """Look what is served, for ever: kinds come with their CRDs, and go."""
        while True:
            try:
                self._served = await self._api.served()
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                log.debug("discovery: %s", error)
            missing = any(self._version(watch.kind) is None for watch in self._tasks)
            await asyncio.sleep(2.0 if missing or not self._served else 20.0)

    def want(self, watches: set[Watch]) -> None:
        for watch in set(self._tasks) - watches:
            self._tasks.pop(watch).cancel()
            self._listed.discard(watch)
            self._store.keep(watch.kind.name, (), watch.covers)
        for watch in watches - set(self._tasks):
            self._tasks[watch] = asyncio.create_task(self._run(watch), name=f"watch {watch.kind.name}")

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _version(self, kind: Kind) -> str | None:
        return next((v for v in kind.versions if (kind.group, v, kind.resource) in self._served), None)

    async def _run(self, watch: Watch) -> None:
        while True:
            version = self._version(watch.kind)
            if version is None:
                await asyncio.sleep(0.5)
                continue
            try:
                await self._follow(watch, path_of(watch.kind, version, watch.namespace))
            except Absent:
                self._served.discard((watch.kind.group, version, watch.kind.resource))
                self._store.keep(watch.kind.name, (), watch.covers)
                self._listed.discard(watch)
            except Gone:
                continue
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                log.debug("%s: %s", watch.kind.name, error)
                await asyncio.sleep(self.RETRY)

    async def _follow(self, watch: Watch, path: str) -> None:
        names: set[Name] = set()
        version = "0"
        async for items, listed in self._api.pages(path, watch.selector):
            version = listed
            for obj in items:
                names.add(name_of(obj))
                self._store.put(watch.kind.name, obj)
        self._store.keep(watch.kind.name, names, watch.covers)
        self._listed.add(watch)
        while True:
            async for event, obj in self._api.watch(path, watch.selector, version):
                version = obj["metadata"].get("resourceVersion", version)
                if event == "DELETED":
                    self._store.remove(watch.kind.name, name_of(obj))
                elif event in ("ADDED", "MODIFIED"):
                    self._store.put(watch.kind.name, obj)
