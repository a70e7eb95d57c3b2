# SPDX-License-Identifier: GPL-3.0-or-later
"""A control plane with the lab's world beside it, in a network namespace of its own: no hosts, nodes by decree."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
import yaml

from lab import controlplane, pki
from lab.paths import API_URL, OUTSIDE
from lab.paths import Lab as LabFiles
from lab.world.api import APPLY, MERGE, Api, ApiError
from tests.integration import apiserver

REPO = Path(__file__).resolve().parents[2]
NEEDED = ("kube-controller-manager", "kube-scheduler", "kwok", "helm", "kubectl")
_CLONE_NEWNET = 0x40000000
HANDLERS = "lab.tokenlabs.invalid/runtime-handlers"
GPU = "lab.tokenlabs.invalid/gpu"
DRIVER = "lab.tokenlabs.invalid/gpu-driver"


def missing() -> str:
    """Why this machine cannot run it; empty when it can."""
    if os.geteuid() != 0:
        return "needs root (network namespaces)"
    tools = apiserver.find_tools()
    if tools is None:
        return "no kube-apiserver and etcd: build the lab's tools first, or set LAB_TOOLS to their directory"
    absent = [name for name in NEEDED if not (tools / name).exists()]
    if absent:
        return f"not in {tools}: {', '.join(absent)}"
    if not (stages_dir(tools) / "pod").is_dir():
        return f"no KWOK stages in {stages_dir(tools)}: set LAB_KWOK_STAGES to their directory"
    return ""


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """This thread, and the processes that it starts, in a fresh network like the lab's."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        commands = ["link set lo up", "link add br0 type bridge", f"addr add {OUTSIDE}/16 dev br0", "link set br0 up"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)
        yield
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(home)


class Lab:
    """What a test works with."""

    def __init__(self, api: Api, tools: Path, files: LabFiles) -> None:
        self.api, self.tools, self.files, self.state = api, tools, files, files.state
        self.kubeconfig = files.pki / "admin.kubeconfig"
        self.kubelets = Kubelets(self)
        self.parts: dict[str, controlplane.Component] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, part: controlplane.Component) -> None:
        if part.probe.startswith("@"):
            (self.state / part.probe[1:]).unlink(missing_ok=True)
        self.parts[part.name] = part
        self.processes[part.name] = _start(self.files, part)
        _await(self.files, part, self.processes[part.name])

    def restart(self, name: str) -> None:
        """Kills a component and starts it again, as the supervisor would."""
        self.processes[name].kill()
        self.processes[name].wait()
        self.start(self.parts[name])

    def helm(self, *arguments: str, timeout: float = 120) -> str:
        env = {**os.environ, "HOME": str(self.state), "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            [self.tools / "helm", *arguments], env=env, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *documents: Any) -> None:
        """Server-side apply of objects, or of YAML texts."""
        for obj in (obj for each in documents for obj in _objects(each)):
            path = f"{self.path(obj)}/{obj['metadata']['name']}"
            query = {"fieldManager": "test", "force": "true"}
            self.api.request("PATCH", path, obj, content_type=APPLY, query=query)

    def patch(self, path: str, patch: dict[str, Any]) -> dict[str, Any]:
        return self.api.request("PATCH", path, patch, content_type=MERGE)

    def path(self, obj: dict[str, Any]) -> str:
        group = obj["apiVersion"]
        kinds = self.api.request("GET", f"/{'apis' if '/' in group else 'api'}/{group}")["resources"]
        kind = next(item for item in kinds if item["kind"] == obj["kind"] and "/" not in item["name"])
        space = f"/namespaces/{obj['metadata']['namespace']}" if kind["namespaced"] else ""
        return f"/{'apis' if '/' in group else 'api'}/{group}{space}/{kind['name']}"

    def get(self, path: str) -> dict[str, Any]:
        return self.api.get(path) or {}

    def wait(self, what: str, test: Callable[[], Any], seconds: float = 60) -> Any:
        """Polls until a test gives something true."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(ApiError, KeyError, IndexError, TypeError):
                if found := test():
                    return found
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}\n{self.logs()}"
            time.sleep(0.1)

    def condition(self, path: str, kind: str, status: str = "True", seconds: float = 60) -> dict[str, Any]:
        """Waits for a condition anywhere in an object's status."""

        def look() -> Any:
            obj = self.get(path)
            return next(
                (item for item in _conditions(obj.get("status")) if item["type"] == kind and item["status"] == status),
                None,
            )

        return self.wait(f"{path} {kind}={status}", look, seconds)

    def webhook_ca(self) -> str:
        """The CA in the AI gateway's webhook: what its controller writes when it is up."""
        hooks = self.api.list("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations")[0]
        found = next(item for item in hooks if item["metadata"]["name"].startswith("envoy-ai-gateway"))
        return found["webhooks"][0]["clientConfig"].get("caBundle", "")

    def settled(self, number: Callable[[], int], seconds: float = 60) -> int:
        """The value of a counter once it stands still for a few seconds."""
        last, since, deadline = number(), time.monotonic(), time.monotonic() + seconds
        while time.monotonic() - since < 3:
            assert time.monotonic() < deadline, f"it does not stand still\n{self.logs()}"
            time.sleep(0.2)
            if (now := number()) != last:
                last, since = now, time.monotonic()
        return last

    def logs(self) -> str:
        return (self.state / "logs" / "world.log").read_text()[-3000:]


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, str):
        yield from (obj for obj in yaml.safe_load_all(document) if obj)
    else:
        yield document


def _conditions(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if {"type", "status"} <= node.keys():
            yield node
        for value in node.values():
            yield from _conditions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _conditions(value)


def upstream_dir() -> Path | None:
    """Real CRDs and charts, where the tester has them."""
    chosen = Path(os.environ.get("LAB_UPSTREAM") or REPO.parent / "shared" / "upstream")
    return chosen.resolve() if chosen.is_dir() else None


def stages_dir(tools: Path) -> Path:
    """KWOK's own stages, beside the programs that the lab built."""
    return Path(os.environ.get("LAB_KWOK_STAGES") or tools.parent / "stages")


@contextlib.contextmanager
def running(state: Path, without: Iterable[str] = ("mirror", "gateway"), upstream: str = "") -> Iterator[Lab]:
    """The lab's own components, started as its supervisor starts them, until the end of the block."""
    tools = apiserver.find_tools()
    assert tools
    lab = LabFiles("test", state, bin=str(tools), stages=str(stages_dir(tools)), upstream=upstream)
    for directory in (lab.logs, state / "home"):
        directory.mkdir(parents=True, exist_ok=True)
    lab.save()
    pki.write(lab.pki, API_URL, [OUTSIDE])
    controlplane.write_configs(lab)
    found = Lab(Api(lab.pki / "admin.kubeconfig"), tools, lab)
    with own_network():
        try:
            for part in controlplane.components(lab):
                if part.name not in without:
                    found.start(part)
            found.kubelets.start()
            yield found
        finally:
            found.kubelets.ended.set()
            for process in reversed(found.processes.values()):
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _start(lab: LabFiles, part: controlplane.Component) -> subprocess.Popen[bytes]:
    log = (lab.logs / f"{part.name}.log").open("ab")
    env = controlplane.child_environment(lab, part)
    return subprocess.Popen(
        part.argv,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        cwd=lab.state,
        env=env,
        preexec_fn=apiserver._die_with_parent,
    )


def _await(lab: LabFiles, part: controlplane.Component, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not _ready(lab, part.probe):
        log = (lab.logs / f"{part.name}.log").read_text()[-2000:]
        assert process.poll() is None, f"{part.name} ended: {log}"
        assert time.monotonic() < deadline, f"{part.name} is not ready: {log}"
        time.sleep(0.05)


def _ready(lab: LabFiles, probe: str) -> bool:
    if probe.startswith("@"):
        return (lab.state / probe[1:]).exists()
    try:
        if probe.startswith("tcp://"):
            host, port = probe.removeprefix("tcp://").split(":")
            socket.create_connection((host, int(port)), 1).close()
            return True
        return not probe or Api(lab.pki / "admin.kubeconfig").get(probe) is not None
    except ValueError:
        return True  # "ok" is no JSON, but it is a success
    except (OSError, ApiError, urllib3.exceptions.HTTPError):
        return False


class Kubelets(threading.Thread):
    """Nodes that live as long as they are told to: registered, Ready, their leases renewed."""

    PERIOD = 5.0

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self.lab = lab
        self.alive: set[str] = set()
        self.ended = threading.Event()

    def add(self, name: str, gpu: bool = False, handlers: str = "runc") -> None:
        marks = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
        notes = {HANDLERS: handlers, **({GPU: "NVIDIA GB10", DRIVER: "580.126.09"} if gpu else {})}
        meta = {"name": name, "labels": marks, "annotations": notes}
        self.lab.api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": meta})
        room = {"cpu": "20", "memory": "120Gi", "pods": "110", "ephemeral-storage": "400Gi"}
        number = 10 + len(self.alive)
        status = {
            "capacity": room,
            "allocatable": room,
            "nodeInfo": {"bootID": f"boot-{name}"},
            "addresses": [{"type": "InternalIP", "address": f"10.77.0.{number}"}],
        }
        self.lab.patch(f"/api/v1/nodes/{name}/status", {"status": status})
        self.alive.add(name)
        self.beat(name)

    def beat(self, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "",
            "lastHeartbeatTime": f"{now}Z",
            "lastTransitionTime": f"{now}Z",
        }
        if not any(
            item["type"] == "Ready" and item["status"] == "True"
            for item in _conditions(self.lab.get(f"/api/v1/nodes/{name}").get("status"))
        ):
            self.lab.patch(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready]}})
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": f"{now}.000000Z"},
        }
        self.lab.apply(lease)

    def run(self) -> None:
        while not self.ended.wait(self.PERIOD):
            for name in list(self.alive):
                with contextlib.suppress(ApiError, urllib3.exceptions.HTTPError):
                    self.beat(name)
