# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs pods for real: programs of this machine with the pod's arguments, environment, files and address.

Each pod has a thread, a network of its own (a cable to the lab's) and a process that is started again when it ends.
The scheduler binds pods; KWOK leaves these alone.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab.world import faults, images, podspec
from lab.world.api import STRATEGIC, Api, ApiError
from lab.world.controllers.kubelet import STARTABLE, blocked
from lab.world.kinds import KINDS
from lab.world.podspec import Missing
from lab.world.store import Json, Store, deleting

log = logging.getLogger("runner")
REPO = Path(__file__).resolve().parents[2]
ADDRESSES = ipaddress.ip_network("10.1.128.0/17")
GATEWAY = "169.254.1.1"  # every pod's next hop, at the lab's end of its cable
BACKOFF, LONGEST_BACKOFF, STEADY = 0.5, 30.0, 20.0
GRACE = 3.0  # seconds from SIGTERM to SIGKILL; the lab has no patience for a pod's own
EAGER, CALM = 0.2, 2.0  # seconds between probes, before and after a pod is ready


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Order:
    """What the container program is told."""

    argv: list[str]
    env: dict[str, str]
    root: str = ""
    mounts: tuple[podspec.Mount, ...] = ()
    directory: str = ""
    user: int | None = None
    group: int | None = None

    def text(self) -> str:
        mounts = [[str(mount.source), mount.target, mount.read_only] for mount in self.mounts]
        return json.dumps({**vars(self), "mounts": mounts}) + "\n"


class Pod(threading.Thread):
    """One pod, from its start to its end."""

    def __init__(self, pod: Json, program: str, address: str, runner: Runner) -> None:
        super().__init__(name=f"pod-{pod['metadata']['name']}", daemon=True)
        self.pod, self.program, self.address, self.runner = pod, program, address, runner
        self.space, self.id = pod["metadata"]["namespace"], pod["metadata"]["uid"]
        self.path = KINDS["Pod"].path(self.space, pod["metadata"]["name"])
        self.container = self._container()
        self.process: subprocess.Popen[bytes] | None = None
        self.order: Order | None = None
        self.own = runner.state / "pods" / self.id
        self.held = False  # ready must not be said (a fault)
        self._end = threading.Event()
        self._delete = False
        self._away = threading.Event()  # the node is: nothing runs and nothing is said
        before = (pod.get("status") or {}).get("containerStatuses") or []
        running = any(status.get("state", {}).get("running") for status in before)
        self.restarts = sum(status["restartCount"] for status in before[:1]) + (1 if running else 0)
        self.started = (pod.get("status") or {}).get("startTime") or _now()
        self._last: Json | None = None
        self._shown: Json = {}

    def _container(self) -> Json:
        program = next(item for item in images.PROGRAMS if item.name == self.program)
        found = images.container_of(self.pod, program.image) if program.image else None
        return found or self.pod["spec"]["containers"][0]

    # --- orders from the runner
    def stop(self, delete: bool) -> None:
        self._delete = delete
        self._end.set()
        self._terminate()

    def node(self, alive: bool) -> None:
        """The node died (its processes with it), or came back."""
        if alive == self._away.is_set():
            if alive:
                self._away.clear()
            else:
                self._away.set()
                self._signal(signal.SIGKILL)

    def kill(self) -> None:
        """A reboot of the node: the process ends, the pod does not."""
        self._signal(signal.SIGKILL)

    def _terminate(self) -> None:
        self._signal(signal.SIGTERM)
        timer = threading.Timer(GRACE, self._signal, (signal.SIGKILL,))
        timer.daemon = True
        timer.start()

    def _signal(self, number: signal.Signals) -> None:
        process = self.process
        if process and process.poll() is None:
            process.send_signal(number)

    # --- life
    def run(self) -> None:
        backoff = BACKOFF
        try:
            while not self._end.is_set():
                if self._away.is_set():
                    self._end.wait(0.5)
                    continue
                began = time.monotonic()
                try:
                    ended = self._once()
                except Missing as missing:
                    self._show_waiting("CreateContainerConfigError", str(missing))
                    self._end.wait(1)
                    continue
                except (OSError, subprocess.CalledProcessError) as error:
                    log.warning("%s: %s", self.name, error)
                    self._show_waiting("RunContainerError", str(error))
                    self._end.wait(LONGEST_BACKOFF if backoff > LONGEST_BACKOFF else backoff)
                    backoff *= 2
                    continue
                if self._end.is_set() or self._away.is_set():
                    self.restarts += 1 if self._away.is_set() else 0
                    continue
                self._last = ended
                backoff = BACKOFF if time.monotonic() - began > STEADY else min(backoff * 2, LONGEST_BACKOFF)
                self._show_waiting("CrashLoopBackOff", f"back-off {backoff:.0f}s restarting failed container")
                self._end.wait(backoff)
                self.restarts += 1
            if self._delete:
                self._remove()
        except Exception:
            log.exception("%s", self.name)
        finally:
            shutil.rmtree(self.own, ignore_errors=True)
            self.runner.wake()

    def _once(self) -> Json:
        """Starts the process, watches over it, and tells how it ended."""
        self.order = order = PROGRAMS[self.program](self)
        process = self._spawn(order)
        try:
            self._cable(process.pid)
            assert process.stdin
            process.stdin.write(order.text().encode())
            process.stdin.close()
            began = _now()
            self._watch(process, began)
        except BaseException:
            process.kill()
            raise
        finally:
            code = process.wait()
            self.process = None
        return {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": began,
            "finishedAt": _now(),
        }

    def _spawn(self, order: Order) -> subprocess.Popen[bytes]:
        logs = self.runner.state / "logs" / "pods"
        logs.mkdir(parents=True, exist_ok=True)
        isolation = ["--net", *(["--mount", "--propagation", "private"] if order.root else [])]
        with open(logs / f"{self.space}_{self.pod['metadata']['name']}.log", "ab") as output:
            # It dies with this thread, and so with the world.
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *isolation, sys.executable, "-m", "lab.world.container"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "PYTHONPATH": str(REPO)},
            )
        if self._end.is_set() or self._away.is_set():
            self.process.kill()
        return self.process

    def _cable(self, pid: int) -> None:
        """A veth pair between the lab and the process's new network namespace."""
        deadline = time.monotonic() + 5
        mine = os.stat("/proc/self/ns/net").st_ino
        while os.stat(f"/proc/{pid}/ns/net").st_ino == mine:
            if time.monotonic() > deadline:
                raise OSError("the container's network namespace does not appear")
            time.sleep(0.01)
        link = f"p{hashlib.sha256(f'{self.id}{self.restarts}{time.monotonic_ns()}'.encode()).hexdigest()[:12]}"
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip("addr", "add", f"{GATEWAY}/32", "dev", link)
        _ip("link", "set", link, "up")
        inside = (
            f"link set lo up\naddr add {self.address}/32 dev eth0\nlink set eth0 up\n"
            f"route add {GATEWAY} dev eth0\nroute add default via {GATEWAY}\n"
        )
        subprocess.run(
            ["nsenter", "-t", str(pid), "--net", "ip", "-batch", "-"],
            input=inside.encode(),
            check=True,
            capture_output=True,
        )
        # The last word wins: an earlier process's cable may not be gone yet.
        _ip("route", "replace", f"{self.address}/32", "dev", link, *self.runner.source)

    def _watch(self, process: subprocess.Popen[bytes], began: str) -> None:
        """Probes while the process lives."""
        ready, misses, deaths = False, 0, 0
        needed = [probe for name in ("startupProbe", "readinessProbe") if (probe := self.container.get(name))]
        live = self.container.get("livenessProbe")
        while process.poll() is None:
            passed = not self.held and all(self._probe(probe, process.pid) for probe in needed)
            misses = 0 if passed else misses + 1
            allowed = (needed[-1].get("failureThreshold") or 3) if needed and ready else 1
            if passed != ready and (passed or misses >= allowed):
                ready = passed
            self._show_running(began, ready)
            if ready and live:
                deaths = 0 if self._probe(live, process.pid) else deaths + 1
                if deaths >= (live.get("failureThreshold") or 3):
                    log.info("%s: liveness probe failed", self.name)
                    process.kill()
            try:
                process.wait(CALM if ready else EAGER)
            except subprocess.TimeoutExpired:
                continue

    def _probe(self, probe: Json, pid: int) -> bool:
        timeout = max(1.0, float(probe.get("timeoutSeconds") or 1))
        try:
            if http_get := probe.get("httpGet"):
                return self._http(http_get, timeout)
            if probe.get("exec"):
                inside = ["nsenter", "-t", str(pid), "--net", "--mount", "--root", "--wd"]
                done = subprocess.run(
                    [*inside, *probe["exec"]["command"]],
                    timeout=timeout,
                    capture_output=True,
                    env=self.order.env if self.order else {},
                )
                return done.returncode == 0
            port = (probe.get("tcpSocket") or probe["grpc"])["port"]
            with socket.create_connection((self.address, self._port(port)), timeout):
                return True
        except (OSError, http.client.HTTPException, subprocess.SubprocessError):
            return False

    def _http(self, action: Json, timeout: float) -> bool:
        host, port = self.address, self._port(action["port"])
        connection: http.client.HTTPConnection
        if action.get("scheme") == "HTTPS":
            unverified = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=unverified)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request("GET", action.get("path") or "/")
            return 200 <= connection.getresponse().status < 400
        finally:
            connection.close()

    def _port(self, port: int | str) -> int:
        if isinstance(port, int) or port.isdigit():
            return int(port)
        return next(item["containerPort"] for item in self.container.get("ports") or [] if item.get("name") == port)

    # --- status
    def _show_running(self, began: str, ready: bool) -> None:
        self._show(ready, {"running": {"startedAt": began}}, True)

    def _show_waiting(self, reason: str, message: str) -> None:
        self._show(False, {"waiting": {"reason": reason, "message": message}}, False)

    def _show(self, ready: bool, state: Json, started: bool) -> None:
        if self._away.is_set() or self._end.is_set():
            return
        statuses = [self._status(container, ready, state, started) for container in self.pod["spec"]["containers"]]
        flags = {STARTABLE: True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
        node = self.runner.node_address(self.pod["spec"]["nodeName"])
        wanted: Json = {
            "phase": "Running",
            "startTime": self.started,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [{"type": name, "status": str(flag)} for name, flag in flags.items()],
            "containerStatuses": statuses,
            **({"hostIP": node, "hostIPs": [{"ip": node}]} if node else {}),
        }
        if wanted == self._shown:
            return
        for condition in wanted["conditions"]:
            condition["lastTransitionTime"] = _now()
        try:
            self.runner.api.request("PATCH", f"{self.path}/status", {"status": wanted}, content_type=STRATEGIC)
        except ApiError as error:
            if error.status != 404:
                log.warning("%s: %s", self.name, error)
            return
        except Exception as error:  # the API server is away: said again at the next probe
            log.debug("%s: %r", self.name, error)
            return
        for condition in wanted["conditions"]:
            del condition["lastTransitionTime"]
        self._shown = wanted

    def forget(self) -> None:
        """Somebody else wrote the status (the node controller): say again what is true."""
        self._shown = {}

    def _status(self, container: Json, ready: bool, state: Json, started: bool) -> Json:
        main = container["name"] == self.container["name"]
        return {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "containerID": f"containerd://{hashlib.sha256(f'{self.id}{container}{self.restarts}'.encode()).hexdigest()}",
            "ready": ready if main else started,
            "started": started,
            "restartCount": self.restarts if main else 0,
            "state": state,
            **({"lastState": {"terminated": self._last}} if self._last and main else {}),
        }

    def _remove(self) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.id}}
        try:
            self.runner.api.request("DELETE", self.path, body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    # --- for programs
    def environment(self) -> dict[str, str]:
        base = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "HOSTNAME": self.pod["metadata"]["name"],
        }
        return base | podspec.environment(self.container, self.pod, self.address, self.runner.lookup)


# --- programs: how a known image is run here
def redis(pod: Pod) -> Order:
    """The machine's redis-server, with the image's habits: options alone are the server's."""
    env = pod.environment()
    argv = podspec.command(pod.container, env, [])
    if not argv or argv[0].startswith("-") or argv[0].endswith(".conf"):
        argv = ["redis-server", *argv]
    if argv[0].endswith("docker-entrypoint.sh"):
        argv = argv[1:] or ["redis-server"]
    spec = pod.pod["spec"]
    security = {**(spec.get("securityContext") or {}), **(pod.container.get("securityContext") or {})}
    volumes = podspec.Volumes(pod.runner.state / "volumes", pod.own, pod.runner.lookup, security.get("fsGroup"))
    root = pod.own / "root"
    root.mkdir(parents=True, exist_ok=True)
    user = security.get("runAsUser")
    group = security.get("runAsGroup") or security.get("fsGroup") or user
    return Order(argv, env, str(root), tuple(volumes.mounts(pod.container, pod.pod)), "/data", user, group)


def model(pod: Pod) -> Order:
    """A model server that answers the OpenAI API under the name and at the port of the container's arguments."""
    words = podspec.command(pod.container, pod.environment(), [])
    name = podspec.option(words, "--served-model-name", "--served_model_name", "--model", "--model-path")
    name = name or next((word for word in words if re.fullmatch(r"[^-/\s][^\s/]*/[^\s/]+", word)), "model")
    declared = next((str(port["containerPort"]) for port in pod.container.get("ports") or []), "8000")
    port = podspec.option(words, "--port") or declared
    argv = [sys.executable, "-m", "lab.gateway.modelserver", "--listen", f"{pod.address}:{port}", "--model", name]
    argv += ["--force-include-usage"] if "--enable-force-include-usage" in words else []
    if slots := podspec.option(words, "--max-num-seqs"):
        argv += ["--max-num-seqs", slots]
    argv += ["--tools"] if podspec.option(words, "--tool-call-parser") else []
    # Whether a model sees is in its weights, which are not here; in its name it often is.
    argv += ["--vision"] if "-VL" in name else []
    return Order(argv, {**_python(), "POD_NAME": pod.pod["metadata"]["name"], "NODE_NAME": pod.pod["spec"]["nodeName"]})


def limitador(pod: Pod) -> Order:
    """Limitador's counters over HTTP; its environment names the store."""
    argv = [sys.executable, "-m", "lab.world.limitador", "--address", pod.address]
    own = {"KUBECONFIG": os.environ.get("KUBECONFIG", "")}
    return Order(argv, {**pod.environment(), **_python(), **own})


def adapter(pod: Pod) -> Order:
    """prometheus-adapter, with the rules of its ConfigMap."""
    volumes = podspec.Volumes(pod.runner.state / "volumes", pod.own, pod.runner.lookup)
    words = podspec.command(pod.container, pod.environment(), [])
    config = podspec.option(words, "--config") or "/etc/adapter/config.yaml"
    place = next(
        mount.source for mount in volumes.mounts(pod.container, pod.pod) if config.startswith(mount.target.rstrip("/"))
    )
    argv = [sys.executable, "-m", "lab.world.adapter", "--address", pod.address]
    argv += ["--port", podspec.option(words, "--secure-port") or "6443", "--config", str(place / Path(config).name)]
    return Order(argv, {**_python(), "KUBECONFIG": os.environ.get("KUBECONFIG", "")})


def speech(pod: Pod) -> Order:
    """A server that speaks, at the container's port."""
    port = next((port["containerPort"] for port in pod.container.get("ports") or []), 8000)
    argv = [sys.executable, "-m", "lab.gateway.speechserver", "--listen", f"{pod.address}:{port}"]
    return Order(argv, _python())


def webhook(pod: Pod) -> Order:
    """The AI gateway controller's pod mutator."""
    volumes = podspec.Volumes(pod.runner.state / "volumes", pod.own, pod.runner.lookup)
    certs = next(mount.source for mount in volumes.mounts(pod.container, pod.pod) if mount.target == "/certs")
    words = podspec.command(pod.container, pod.environment(), [])
    image = podspec.option(words, "--extProcImage") or "docker.io/envoyproxy/ai-gateway-extproc"
    argv = [
        sys.executable,
        "-m",
        "lab.world.webhook",
        "--address",
        pod.address,
        "--namespace",
        pod.space,
        "--certs",
        str(certs),
        "--image",
        image,
    ]
    return Order(argv, {**_python(), "KUBECONFIG": os.environ.get("KUBECONFIG", "")})


def _python() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ}
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1", **kept}


PROGRAMS: dict[str, Callable[[Pod], Order]] = {
    "redis": redis,
    "speech": speech,
    "model": model,
    "webhook": webhook,
    "adapter": adapter,
    "limitador": limitador,
}


class Runner:
    """Keeps the pods of real programs in line with what the cluster wants."""

    def __init__(self, api: Api, state: Path, wake: Callable[[], None], source: str = "10.77.255.254") -> None:
        self.api, self.state, self.wake = api, state, wake
        self.source = ["src", source] if source else []
        self.pods: dict[str, Pod] = {}
        self._boots: dict[str, str] = {}
        self._nodes: dict[str, str] = {}

    def lookup(self, kind: str, namespace: str, name: str) -> Json | None:
        found = self.api.get(KINDS[kind].path(namespace, name))
        return {**found, "kind": kind} if found else None

    def node_address(self, name: str) -> str:
        return self._nodes.get(name, "")

    def sync(self, store: Store) -> None:
        wanted = {
            pod["metadata"]["uid"]: pod
            for pod in store.all("Pod")
            if pod["spec"].get("nodeName") and images.runner(pod)
        }
        self._look_at_nodes(store)
        for uid, running in list(self.pods.items()):
            if not running.is_alive():
                del self.pods[uid]
            elif uid not in wanted:
                running.stop(delete=False)
        for uid, pod in wanted.items():
            known = self.pods.get(uid)
            if deleting(pod):
                if not store.node_alive(pod["spec"]["nodeName"]):
                    continue  # as on a real dead node: nobody can say that it ended
                if known:
                    known.stop(delete=True)
                else:
                    self._forget(pod)
            elif known:
                self._tend(known, pod, store)
            elif store.node_alive(pod["spec"]["nodeName"]) and not blocked(pod, store)[0]:
                self._start(uid, pod, store)

    def _look_at_nodes(self, store: Store) -> None:
        for node in store.all("Node"):
            name, status = node["metadata"]["name"], node.get("status") or {}
            addresses = [item["address"] for item in status.get("addresses") or [] if item["type"] == "InternalIP"]
            self._nodes[name] = next(iter(addresses), "")
            boot = (status.get("nodeInfo") or {}).get("bootID", "")
            if self._boots.setdefault(name, boot) != boot:
                self._boots[name] = boot
                for pod in self.pods.values():
                    if pod.pod["spec"]["nodeName"] == name:
                        pod.kill()

    def _tend(self, known: Pod, pod: Json, store: Store) -> None:
        known.node(store.node_alive(pod["spec"]["nodeName"]))
        known.held = faults.hit_prefix(store, "pods_never_ready", pod["metadata"]["name"])
        shown = {item["type"]: item["status"] for item in known._shown.get("conditions") or []}
        live = {item["type"]: item["status"] for item in (pod.get("status") or {}).get("conditions") or []}
        if shown and shown["Ready"] != live.get("Ready"):
            known.forget()

    def _start(self, uid: str, pod: Json, store: Store) -> None:
        address = (pod.get("status") or {}).get("podIP") or self._free_address(uid, store)
        thread = Pod(pod, images.runner(pod), address, self)
        self.pods[uid] = thread
        thread.start()

    def _free_address(self, uid: str, store: Store) -> str:
        taken = {(pod.get("status") or {}).get("podIP") for pod in store.all("Pod")}
        taken |= {pod.address for pod in self.pods.values()}
        size = ADDRESSES.num_addresses - 2
        start = int(hashlib.sha256(uid.encode()).hexdigest(), 16) % size
        candidates = (str(ADDRESSES[1 + (start + step) % size]) for step in range(size))
        return next(address for address in candidates if address not in taken)

    def _forget(self, pod: Json) -> None:
        """A pod that was told to end before it began."""
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        try:
            self.api.request("DELETE", KINDS["Pod"].path(pod["metadata"]["namespace"], pod["metadata"]["name"]), body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def close(self) -> None:
        for pod in self.pods.values():
            pod.stop(delete=False)
        for pod in self.pods.values():
            pod.join(GRACE + 1)
