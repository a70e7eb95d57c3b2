# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated kubelet: registers the Node once, keeps its status true and its lease fresh.

As the real one it registers at its start only: a Node that is deleted stays away until the next start, and
the labels and taints of its arguments act only when the Node is created.
"""

from __future__ import annotations

import contextlib
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from . import argfile, endpoints, flags, kube, proxy, toolkit
from .host import Host, read_json

LEASE_SECONDS, POLL_SECONDS, STATUS_SECONDS, REFRESH_SECONDS = 10, 2, 300, 30
HANDLERS = "lab.tokenlabs.invalid/runtime-handlers"
GPU, DRIVER = "lab.tokenlabs.invalid/gpu", "lab.tokenlabs.invalid/gpu-driver"
TOOLKIT = "lab.tokenlabs.invalid/toolkit"  # written by the GPU operator's stand-in
STALE = "lab.tokenlabs.invalid/network-stale-since"
_DEFAULT_CAPACITY = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "400Gi"}
_UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}


def quantity(text: str) -> float:
    """A Kubernetes quantity as a plain number (cpu in cores, the rest in bytes)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|[kMG]|[KMGT]i)?", text.strip())
    if not match:
        raise ValueError(f"not a quantity: {text!r}")
    return float(match[1]) * (0.001 if match[2] == "m" else _UNITS[match[2] or ""])


def pairs(text: str, between: str = "=") -> dict[str, str]:
    """`a=b,c=d` as a dictionary."""
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = item.partition(between)
        found[key.strip()] = value.strip().strip("\"'")
    return found


def allocatable(capacity: dict[str, str], flags: dict[str, str]) -> dict[str, str]:
    """Capacity less what the arguments reserve and what eviction keeps free."""
    left = dict(capacity)
    reserved = [pairs(flags.get(f, "")) for f in ("--system-reserved", "--kube-reserved")]
    eviction = pairs(flags.get("--eviction-hard", ""), "<")

    def threshold(signal: str, whole: str) -> float:
        told = eviction.get(signal, "0")
        return quantity(whole) * float(told[:-1]) / 100 if told.endswith("%") else quantity(told)

    for name in ("cpu", "memory", "ephemeral-storage"):
        taken = sum(quantity(r[name]) for r in reserved if name in r)
        if name == "memory":
            taken += threshold("memory.available", capacity[name])
        if name == "ephemeral-storage":
            taken += threshold("nodefs.available", capacity[name])
        if name == "cpu":
            left[name] = f"{round((quantity(capacity[name]) - taken) * 1000)}m" if taken else capacity[name]
        else:
            left[name] = f"{int((quantity(capacity[name]) - taken) // 1024)}Ki"
    return left


def taints(text: str) -> list[dict[str, str]]:
    found = []
    for item in filter(None, text.split(",")):
        head, _, effect = item.rpartition(":")
        key, _, value = head.partition("=")
        found.append({"key": key, "value": value, "effect": effect} if value else {"key": key, "effect": effect})
    return found


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Kubelet:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.flags = argfile.read(host.args / "kubelet")
        self.name = self.flags.get("--hostname-override") or host.node_name
        self.api = kube.node_client(host)
        self.path = f"/api/v1/nodes/{self.name}"
        self.lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"
        self.started = time.monotonic()
        self.reported: tuple[Any, ...] = ()
        self.reported_at = 0.0
        self.uid = ""
        self.proxy = proxy.ServiceProxy(self.name)

    # -- what is told
    def default_labels(self) -> dict[str, str]:
        arch = self.host.arch
        return {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": arch,
        }

    def capacity(self) -> dict[str, str]:
        found = {**_DEFAULT_CAPACITY, "pods": "110", "hugepages-2Mi": "0", **self.host.settings.node}
        for name, fault in (("cpu", "cores"), ("memory", "memory")):
            if value := self.host.look_at_fault(fault):
                found[name] = str(value)
        return found

    def runtime(self) -> dict[str, Any]:
        return dict(read_json(self.host.runtime_file, {"running": False, "error": "containerd has not started"}))

    def conditions(self, runtime: dict[str, Any]) -> list[dict[str, str]]:
        pressure = [
            ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ]
        found = [{"type": t, "status": "False", "reason": r, "message": m} for t, r, m in pressure]
        settled = time.monotonic() - self.started >= self.host.settings.ready_delay
        if runtime.get("error"):
            ready = ("False", "KubeletNotReady", f"container runtime is down: {runtime['error']}")
        elif not settled:
            ready = (
                "False",
                "KubeletNotReady",
                "container runtime network not ready: NetworkReady=false "
                "reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized",
            )
        else:
            ready = ("True", "KubeletReady", "kubelet is posting ready status")
        return [*found, {"type": "Ready", "status": ready[0], "reason": ready[1], "message": ready[2]}]

    def node_info(self, runtime: dict[str, Any]) -> dict[str, str]:
        snap = read_json(self.host.state / "snaps.json", {}).get("microk8s", {})
        release = dict(line.split("=", 1) for line in self._text("etc/os-release").splitlines() if "=" in line)
        return {
            "kubeletVersion": snap.get("version", ""),
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": self.host.arch,
            "osImage": release.get("PRETTY_NAME", "").strip('"'),
            "kernelVersion": self.host.kernel,
            "machineID": self._text("etc/machine-id").strip(),
            "systemUUID": self._text("etc/machine-id").strip(),
            "bootID": self._text("proc/sys/kernel/random/boot_id").strip(),
            "containerRuntimeVersion": f"containerd://{runtime.get('version', 'Unknown')}",
        }

    def _text(self, relative: str) -> str:
        try:
            return self.host.path(relative).read_text()
        except OSError:
            return ""

    def notes(self, runtime: dict[str, Any]) -> dict[str, str | None]:
        """What the lab's other parts need to know of this machine."""
        gpu, faults = read_json(self.host.state / "gpu.json", {}), self.host.look_at_fault
        broken = faults("gpu_driver_broken") or faults("gpu_driver_missing")
        return {
            HANDLERS: ",".join(runtime.get("handlers", [])),
            STALE: self._text("var/lib/snapsim/network-stale").strip() or None,
            GPU: gpu.get("name"),
            DRIVER: None if broken else str(faults("gpu_driver") or gpu["driver"]) if gpu else None,
        }

    # -- what is done
    def register(self) -> None:
        """Create the Node, or take over one that is there (then only the default labels are set right)."""
        labels = self.default_labels()
        found = self.api.get(self.path)
        if found is None:
            spec: dict[str, Any] = {}
            if wanted := taints(self.flags.get("--register-with-taints", "")):
                spec["taints"] = wanted
            body = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": self.name, "labels": {**pairs(self.flags.get("--node-labels", "")), **labels}},
                "spec": spec,
            }
            found = self.api.call("POST", "/api/v1/nodes", body)
        elif any(found["metadata"].get("labels", {}).get(k) != v for k, v in labels.items()):
            self.api.patch(self.path, {"metadata": {"labels": labels}})
        self.uid = found["metadata"]["uid"]
        print(f"registered node {self.name}", flush=True)

    def report(self, current: dict[str, Any] | None) -> None:
        """PATCH the status when something is new, when someone else changed a condition, or every five minutes."""
        runtime = self.runtime()
        conditions = self.conditions(runtime)
        info = self.node_info(runtime)
        notes = self.notes(runtime)
        state = (tuple(tuple(c.items()) for c in conditions), tuple(info.items()), tuple(notes.items()),
                 runtime.get("started"))  # fmt: skip
        known = {c["type"]: c for c in ((current or {}).get("status") or {}).get("conditions") or []}
        overruled = any(known.get(c["type"], {}).get("status") != c["status"] for c in conditions) if current else False
        if state == self.reported and not overruled and time.monotonic() - self.reported_at < STATUS_SECONDS:
            return
        for condition in conditions:
            old = known.get(condition["type"], {})
            condition["lastHeartbeatTime"] = now()
            condition["lastTransitionTime"] = (
                old["lastTransitionTime"] if old.get("status") == condition["status"] else now()
            )
        capacity = self.capacity()
        address = self.flags.get("--node-ip") or self.host.address
        status = {
            "conditions": conditions,
            "capacity": capacity,
            "allocatable": allocatable(capacity, self.flags),
            "nodeInfo": info,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": self.name}],
        }
        self.api.patch(f"{self.path}/status", {"status": status})
        have = (current or {}).get("metadata", {}).get("annotations") or {}
        if any(have.get(key) != value for key, value in notes.items()):
            self.api.patch(self.path, {"metadata": {"annotations": notes}})
        self.reported, self.reported_at = state, time.monotonic()

    def renew(self) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000 % 1000000:06d}Z"
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": stamp}
        answer = self.api.raw("PATCH", self.lease, {"spec": spec}, "application/merge-patch+json")
        if answer.status == 404:
            owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": self.uid}
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.name, "ownerReferences": [owner]},
                "spec": spec,
            }
            self.api.call("POST", self.lease.rpartition("/")[0], body)
        elif answer.status >= 400:
            raise kube.KubeError(answer)

    def runtime_stamp(self) -> float:
        try:
            return self.host.runtime_file.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def settled(self) -> bool:
        """The time that a start takes is over, and so is the report after it."""
        return time.monotonic() - self.started > self.host.settings.ready_delay + 1

    def cycle(self, due: bool) -> None:
        """Report what is new, and (when due) show signs of life. A Node that someone deleted stays deleted."""
        current = self.api.get(self.path)
        if current is not None:
            toolkit.follow(self.host, (current["metadata"].get("annotations") or {}).get(TOOLKIT, ""))
            self.report(current)
            if due:
                self.renew()

    def keep_endpoints(self) -> None:
        """Where the API servers are, and who answers at this host's address."""
        if self.host.is_worker:
            client = kube.proxy_client(self.host)
            endpoints.follow(self.host, client)
        else:
            client = kube.server_client(self.host)
            endpoints.announce(self.host, client)
        self.proxy.follow(client)

    def run(self) -> None:
        registered = False
        next_beat, next_look, seen = 0.0, 0.0, -1.0
        while True:
            pause: float = POLL_SECONDS
            try:
                if not registered:
                    self.register()
                    registered = True
                stamp, due = self.runtime_stamp(), time.monotonic() >= next_beat
                if due or stamp != seen or not self.settled():
                    self.cycle(due)
                    seen = stamp
                    if due:
                        next_beat = time.monotonic() + LEASE_SECONDS
                if time.monotonic() >= next_look:
                    self.keep_endpoints()
                    next_look = time.monotonic() + (REFRESH_SECONDS if self.host.is_worker else LEASE_SECONDS)
                if not self.settled():
                    pause = 0.5
            except (OSError, ValueError, kube.KubeError) as error:
                print(f"kubelet: {error}", file=sys.stderr, flush=True)
                pause = 1
            time.sleep(pause)


def problem(values: dict[str, str]) -> str:
    """Why the kubelet cannot start with these arguments."""
    if flag := flags.unknown(values):
        return f"failed to parse kubelet flag: unknown flag: {flag}"
    for name in ("--system-reserved", "--kube-reserved"):
        try:
            for text in pairs(values.get(name, "")).values():
                quantity(text)
        except ValueError as error:
            return f'failed to parse kubelet flag: invalid argument for "{name}" flag: {error}'
    return ""


def hang_up(listeners: list[socket.socket]) -> None:
    """Take calls and end them: a port whose callers nobody takes looks filtered after some of them."""
    while True:
        for listener in select.select(listeners, [], [])[0]:
            with contextlib.suppress(OSError):
                listener.accept()[0].close()


def listen(host: Host) -> None:
    """The ports that a kubelite holds; whoever calls is hung up on."""
    local = host.settings.address or "127.0.0.1"
    ports = [(host.settings.address or "0.0.0.0", 10250)]
    ports += [] if host.is_worker else [(local, 10257), (local, 10259)]
    held = []
    for address in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
        held.append(listener)
    threading.Thread(target=hang_up, args=(held,), daemon=True).start()


def prepare_control_plane(host: Host) -> None:
    """What MicroK8s applies to a new cluster by itself: its network."""
    from .addons import manifests

    client = kube.admin(host)
    if client.get("/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node") is None:
        for obj in manifests.network():
            client.apply(obj)


def main(argv: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    host = Host()
    if error := problem(argfile.read(host.args / "kubelet")):
        print(f'"command failed" err="{error}"', file=sys.stderr, flush=True)
        return 1
    listen(host)
    if not host.is_worker and not host.api_url:
        while True:  # a cluster of its own, without an API server: nothing to tell anyone
            signal.pause()
    kubelet = Kubelet(host)
    ready = host.is_worker
    while not ready:
        try:
            prepare_control_plane(host)
            ready = True
        except (OSError, kube.KubeError) as error:
            print(f"kubelite: {error}", file=sys.stderr, flush=True)
            time.sleep(0.5)
    kubelet.run()
    return 0
