# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated hosts in temporary directories, on loopback addresses, around a small Kubernetes API in memory."""

from __future__ import annotations

import http.server
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.hostsim.snapsim import pki
from lab.hostsim.snapsim.host import Host

PACKAGE = Path(__file__).resolve().parents[2] / "lab/hostsim"
_PATH = re.compile(
    r"^/(?P<base>api/[^/]+|apis/[^/]+/[^/]+)(?:/namespaces/(?P<ns>[^/]+))?/(?P<kind>[a-z0-9]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>status))?$"
)


def merged(old: Any, new: Any) -> Any:
    """Like a strategic merge, as far as nodes need it: lists of typed things are merged by their type."""
    if isinstance(old, dict) and isinstance(new, dict):
        result = dict(old)
        for key, value in new.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = merged(old.get(key), value)
        return result
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(x, dict) and "type" in x for x in old + new):
        return list({**{x["type"]: x for x in old}, **{x["type"]: x for x in new}}.values())
    return new


@dataclass
class FakeApi:
    """Objects by (base, kind, namespace, name); every write is noted."""

    objects: dict[tuple[str, str, str, str], dict[str, Any]] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    down: bool = False
    url: str = ""

    def put(self, base: str, kind: str, namespace: str, name: str, body: dict[str, Any] | None = None) -> None:
        obj = dict(body or {})
        obj["metadata"] = {"name": name, "uid": f"uid-{name}", **obj.get("metadata", {})}
        if namespace:
            obj["metadata"]["namespace"] = namespace
        self.objects[(base, kind, namespace, name)] = obj

    def node(self, name: str) -> dict[str, Any]:
        return self.objects[("api/v1", "nodes", "", name)]

    def add_node(self, name: str, address: str, ready: bool = True, cordoned: bool = False) -> None:
        self.put("api/v1", "nodes", "", name, {
            "spec": {"unschedulable": True} if cordoned else {},
            "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                       "addresses": [{"type": "InternalIP", "address": address}]}})  # fmt: skip

    def handle(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/readyz":
            return 200, {}
        match = _PATH.match(path)
        if not match:
            return 404, {"message": f"no such path {path}"}
        base, kind, namespace, name = match["base"], match["kind"], match["ns"] or "", match["name"]
        if method != "GET":
            self.writes.append((method, path))
        if name is None and method == "GET":
            found = [o for (b, k, n, _), o in sorted(self.objects.items())
                     if (b, k) == (base, kind) and namespace in ("", n)]  # fmt: skip
            return 200, {"items": found}
        if method == "PUT":
            self.put(base, kind, namespace, name or "", body)
            return 200, self.objects[(base, kind, namespace, name or "")]
        if name is None:
            name = body["metadata"]["name"]
            self.put(base, kind, namespace, name, body)
            return 201, self.objects[(base, kind, namespace, name)]
        key = (base, kind, namespace, name)
        if method == "PATCH" and key not in self.objects and "apiVersion" in body:
            self.put(*key, body)
            return 201, self.objects[key]
        if key not in self.objects:
            return 404, {"message": f'{kind} "{name}" not found'}
        if method == "PATCH":
            self.objects[key] = merged(self.objects[key], body)
        if method == "DELETE":
            return 200, self.objects.pop(key)
        return 200, self.objects[key]


def _server(api: FakeApi, address: str, cert: Path, key: Path, ca: Path) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            peer = self.connection.getpeercert() or {}  # type: ignore[attr-defined]
            names = [v for rdn in peer.get("subject", ()) for k, v in rdn if k == "commonName"]
            api.clients.extend(names)
            if api.down:
                status, result = 503, {"message": "down"}
            else:
                status, result = api.handle(self.command, self.path.partition("?")[0], json.loads(raw) if raw else {})
            body = json.dumps(result).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    tls.load_verify_locations(ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    return server


@contextmanager
def api_server(folder: Path, address: str) -> Iterator[FakeApi]:
    """Runs until the block ends; `folder` then holds ca.crt, ca.key and apiserver-url, as the lab's seed."""
    folder.mkdir(parents=True)
    ca = (folder / "ca.crt", folder / "ca.key")
    pki.make_ca(*ca, "lab")
    pki.issue(ca, folder / "api.crt", folder / "api.key", "/CN=kube-apiserver", [address, "127.0.0.1"])
    api = FakeApi()
    server = _server(api, address, folder / "api.crt", folder / "api.key", ca[0])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    api.url = f"https://{address}:{server.server_address[1]}"
    (folder / "apiserver-url").write_text(api.url + "\n")
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class SimHost:
    """One host: a directory, and the programs of the simulator run on it as processes of their own."""

    root: Path
    settings: dict[str, Any]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        defaults: dict[str, Any] = {"services": "record", "arch": "x86_64", "install_delay": 0, "launch_delay": 0,
                                    "ready_delay": 0, "rebind_delay": 0, "auto_refresh_time": 0}  # fmt: skip
        (self.root / "etc").mkdir(parents=True, exist_ok=True)
        (self.root / "etc/snapsim.json").write_text(json.dumps({**defaults, **self.settings}))

    @property
    def host(self) -> Host:
        return Host(self.root)

    @property
    def data(self) -> Path:
        return self.host.data

    def locks(self) -> list[str]:
        return sorted(p.name for p in (self.data / "var/lock").iterdir() if not p.name.startswith("."))

    def command(self, module: str, call: str) -> list[str]:
        code = f"import sys; sys.path.insert(0, {str(PACKAGE)!r}); from snapsim.{module} import main; sys.exit({call})"
        return [sys.executable, "-IS", "-c", code]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SNAPSIM_ROOT": str(self.root)}

    def run(self, program: str, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.program(program), *argv], env=self.environment(), capture_output=True, text=True,
                              input=stdin, timeout=60, check=False)  # fmt: skip

    def program(self, name: str) -> list[str]:
        call = {"snap": ("snapcli", "main(sys.argv[1:])"), "nvidia-smi": ("nvidia_smi", "main(sys.argv[1:])"),
                "containerd": ("containerd", "main(sys.argv[1:])"), "snapd": ("snapd", "main(sys.argv[1:])"),
                "microk8s": ("microk8s", "main('microk8s', sys.argv[1:])")}[name]  # fmt: skip
        return self.command(*call)

    def popen(self, program: str, *argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.program(program), *argv], env=self.environment(),
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def microk8s(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.run("microk8s", *argv, stdin=stdin)

    def snap(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.run("snap", *argv)

    def install(self, channel: str = "1.35/stable") -> SimHost:
        done = self.snap("install", "microk8s", "--classic", f"--channel={channel}")
        assert done.returncode == 0, done.stderr
        return self

    def token(self, *options: str) -> str:
        return self.microk8s("add-node", "--format", "token-check", *options).stdout.strip()

    def fault(self, **faults: Any) -> None:
        (self.root / "var/lib/snapsim").mkdir(parents=True, exist_ok=True)
        (self.root / "var/lib/snapsim/faults.json").write_text(json.dumps(faults))

    def journal(self) -> list[dict[str, Any]]:
        path = self.root / "var/lib/snapsim/journal.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(self, module: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self.command(module, "main([])"), env=self.environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        self.daemons.append(process)
        return process

    def start_agent(self) -> None:
        import socket

        self.start("agent")
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection((self.settings["address"], 25000), 1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        for process in self.daemons:
            process.terminate()
            process.wait(10)


def eventually(check: Any, seconds: float = 10) -> Any:
    """The first true value of `check()`."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not in {seconds} s: {check}")
        time.sleep(0.05)
