# SPDX-License-Identifier: GPL-3.0-or-later
"""The data plane against an API server: lists in pages, watches, kinds that come late, and nothing that writes."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from lab.gateway.kubeapi import load_kubeconfig
from lab.gateway.objects import CONFIG_MAP, KINDS, SECRET, Kind
from tests.lab.gateway_harness import (
    KUADRANT,
    NAMESPACE,
    Doc,
    Lab,
    Make,
    ai_route,
    auth_policy,
    chat,
    free_port,
    models_route,
    request_policy,
    tenant_secret,
)

pytest_plugins = ["tests.lab.gateway_fixtures"]

REPO = Path(__file__).resolve().parents[2]
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in (*KINDS, SECRET, CONFIG_MAP)}


@dataclass
class FakeApi:
    """Enough of an API server: discovery, paged lists, watches that can be told to fail."""

    port: int = field(default_factory=free_port)
    hidden: set[str] = field(default_factory=set)
    page: int = 3

    def __post_init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], Doc]] = {}
        self.version = 100
        self.log: list[tuple[int, str, str, Doc]] = []
        self.oldest = 0
        self.methods: set[str] = set()
        self.lists: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.waiting: set[asyncio.Event] = set()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(5)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)

    # --- what tests do ---

    def put(self, *documents: tuple[str, Doc]) -> None:
        for kind, document in documents:
            doc = copy.deepcopy(document)
            key = (doc["metadata"].get("namespace", ""), doc["metadata"]["name"])
            known = self.objects.setdefault(kind, {})
            self._note("MODIFIED" if key in known else "ADDED", kind, doc)
            known[key] = doc

    def remove(self, kind: str, name: str, namespace: str = NAMESPACE) -> None:
        self._note("DELETED", kind, self.objects[kind].pop((namespace, name)))

    def forget(self) -> None:
        """Break all watches, and answer 410 to whoever wants to go on from where it was."""
        self.version += 1
        self.oldest = self.version
        self._wake()

    def _wake(self) -> None:
        def wake() -> None:
            for event in self.waiting:
                event.set()

        self.loop.call_soon_threadsafe(wake)

    def _note(self, event: str, kind: str, doc: Doc) -> None:
        self.version += 1
        doc["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, event, kind, doc))
        self._wake()

    # --- what it answers ---

    def _served(self) -> list[Kind]:
        return [kind for kind in BY_NAME.values() if kind.name not in self.hidden]

    def _discovery(self, core: bool) -> Doc:
        groups: dict[str, list[Doc]] = {}
        for kind in self._served():
            if (kind.group == "") == core:
                entry = {"version": kind.versions[0], "resources": [{"resource": kind.resource}]}
                groups.setdefault(kind.group, []).append(entry)
        return {"items": [{"metadata": {"name": name}, "versions": versions} for name, versions in groups.items()]}

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.methods.add(request.method)
        if request.path in ("/api", "/apis"):
            return web.json_response(self._discovery(request.path == "/api"))
        parts = request.path.strip("/").split("/")
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        namespace = None
        if rest[0] == "namespaces" and len(rest) == 3:
            namespace, rest = rest[1], rest[2:]
        kind = next((item for item in self._served() if (item.group, item.resource) == (group, rest[0])), None)
        if kind is None:
            return web.json_response({"message": "not found"}, status=404)
        wanted = dict(pair.split("=", 1) for pair in request.query.get("fieldSelector", "").split(",") if "=" in pair)

        def selected(doc: Doc) -> bool:
            meta = doc["metadata"]
            return (
                namespace in (None, meta.get("namespace"))
                and wanted.get("metadata.name") in (None, meta["name"])
                and doc.get("type") != wanted.get("type!", "nothing")
            )

        if request.query.get("watch"):
            return await self._watch(request, kind.name, selected)
        self.lists.append(request.path)
        docs = [doc for doc in self.objects.get(kind.name, {}).values() if selected(doc)]
        start = int(request.query.get("continue") or 0)
        meta: Doc = {"resourceVersion": str(self.version)}
        if start + self.page < len(docs):
            meta["continue"] = str(start + self.page)
        return web.json_response({"metadata": meta, "items": docs[start : start + self.page]})

    async def _watch(self, request: web.Request, kind: str, selected: Any) -> web.StreamResponse:
        at = int(request.query["resourceVersion"])
        if at < self.oldest:
            return web.json_response({"message": "too old"}, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        oldest, changed = self.oldest, asyncio.Event()
        self.waiting.add(changed)
        try:
            while True:
                changed.clear()
                for version, event, of, doc in list(self.log):
                    if version > at and of == kind and selected(doc):
                        line = json.dumps({"type": event, "object": doc}) + "\n"
                        await response.write(line[:7].encode())  # lines come in pieces
                        await response.write(line[7:].encode())
                        at = version
                if self.oldest != oldest:
                    error = {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}
                    await response.write(json.dumps(error).encode() + b"\n")
                    return response
                await changed.wait()
        finally:
            self.waiting.discard(changed)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    server = FakeApi()
    yield server
    server.close()


def kubeconfig(path: Path, api: FakeApi) -> Path:
    document = {
        "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "gateway"}}],
        "clusters": [{"name": "lab", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
        "users": [{"name": "gateway", "user": {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def process(api: FakeApi, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The data plane as the lab starts it."""
    log = (tmp_path / "log").open("wb")
    environment = {**os.environ, "PYTHONPATH": str(REPO), "KUBECONFIG": str(kubeconfig(tmp_path / "config", api))}
    child = subprocess.Popen(
        [sys.executable, "-m", "lab.gateway", "--state", str(tmp_path)], env=environment, stderr=log, cwd=REPO
    )
    yield child
    child.kill()
    child.wait()
    log.close()


def eventually(lab: Lab, key: str | None, status: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = lab.ask("/v1/chat/completions", chat(), key=key).status
        except OSError as error:
            last = error
        if last == status:
            return
        time.sleep(0.02)
    raise AssertionError(f"{key}: {last}, not {status}")


def test_process_follows_the_cluster(
    make: Make, api: FakeApi, process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    lab = make()  # only its model servers and documents: its own data plane serves nothing
    api.hidden = {"AuthPolicy"}
    api.put(*lab.base(), *lab.token_service(), *lab.tenants(), *models_route(), *ai_route())
    eventually(lab, None, 200)
    api.put(("AuthPolicy", auth_policy()), ("RateLimitPolicy", request_policy()))
    api.hidden = set()  # the CRDs come
    eventually(lab, None, 401)
    eventually(lab, "key-pro", 200)
    release = {**tenant_secret("release", "key-release", "pro", "x"), "type": "helm.sh/release.v1"}
    api.put(("Secret", release), ("Secret", tenant_secret("tenant-new", "key-new", "pro", "new")))
    eventually(lab, "key-new", 200)
    assert lab.ask("/v1/models", key="key-release").status == 401
    api.remove("Secret", "tenant-new", KUADRANT)
    eventually(lab, "key-new", 401)
    lists = len(api.lists)
    api.forget()
    api.objects["Secret"].pop((KUADRANT, "tenant-pro-1"))  # missed while nobody watched
    eventually(lab, "key-pro", 401)
    eventually(lab, "key-big", 200)
    assert len(api.lists) > lists
    assert api.methods == {"GET"}
    assert not [path for path in api.lists if path == "/api/v1/secrets"]
    with open(f"/proc/{process.pid}/status") as status:
        peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    assert peak < 100 * 1024
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "key-" not in log


def test_process_starts_before_anything_is_there(api: FakeApi, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while len(api.lists) < len(KINDS):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_process_without_a_cluster_says_what_it_needs(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    answer = subprocess.run(
        [sys.executable, "-m", "lab.gateway"],
        env={**environment, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert answer.returncode == 2
    assert "--kubeconfig" in answer.stderr


def test_kubeconfigs_with_files_and_with_data(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=lab"]
        + ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "crt")],
        check=True,
        capture_output=True,
    )
    document = {
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "gateway"}}],
        "clusters": [{"name": "lab", "cluster": {"server": "https://api:1/", "certificate-authority": "crt"}}],
        "users": [{"name": "gateway", "user": {"client-certificate": "crt", "client-key": "key"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(document))
    access = load_kubeconfig(tmp_path / "config")
    assert access.server == "https://api:1"
    assert access.tls is not None
    assert len(access.tls.get_ca_certs()) == 1
