# SPDX-License-Identifier: GPL-3.0-or-later
"""A real kube-apiserver on a real etcd, on 127.0.0.1, for the length of a test session."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from lab import pki
from tests.ports import free_port

NEEDED = ("etcd", "kube-apiserver")
READY_SECONDS = 90
HARNESS = "test-harness"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
# What the server does by itself is not what a test looks for.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "users": ["system:apiserver"]},
        {"level": "None", "nonResourceURLs": ["/readyz*", "/healthz*", "/livez*"]},
        {"level": "Metadata"},
    ],
}


def find_tools() -> Path | None:
    """The directory with the control plane's binaries: LAB_TOOLS, the lab's cache, or the PATH."""
    candidates = [os.environ.get("LAB_TOOLS")]
    with contextlib.suppress(ImportError, AttributeError, OSError):
        from lab import build

        candidates.append(str(build.tools_dir()))
    found = shutil.which("kube-apiserver")
    candidates.append(str(Path(found).parent) if found else None)
    for directory in filter(None, candidates):
        if all(os.access(Path(directory) / name, os.X_OK) for name in NEEDED):
            return Path(directory).resolve()
    return None


def _die_with_parent() -> None:
    # The control plane must not outlive a test run that was killed.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@dataclass
class ApiServer:
    """Where the server is, and what it was asked."""

    url: str
    kubeconfig: Path
    audit_log: Path
    pki: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def mark(self) -> int:
        """A place in the audit log; hand it to `requests` to see what came after."""
        self._settle()
        return self.audit_log.stat().st_size

    def requests(self, since: int) -> list[dict[str, Any]]:
        """Audit events since the mark, in the order in which they were answered; not the tests' own."""
        self._settle()
        with self.audit_log.open("rb") as log:
            log.seek(since)
            return [event for event in map(json.loads, log) if event.get("userAgent") != HARNESS]

    def writes(self, since: int) -> list[str]:
        """Write requests since the mark, as "verb uri"."""
        return [f"{event['verb']} {event['requestURI']}" for event in self.requests(since) if event["verb"] in WRITES]

    def raw(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """A request as the administrator, without any of the code under test."""
        answer = self._pool().request(
            method,
            self.url + path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type, "User-Agent": HARNESS},
        )
        data = json.loads(answer.data)
        assert answer.status < 300, (method, path, answer.status, data.get("message"))
        return data

    def _pool(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(
            ca_certs=str(self.pki / "ca.crt"),
            cert_file=str(self.pki / "admin.crt"),
            key_file=str(self.pki / "admin.key"),
        )

    def _settle(self) -> None:
        # The log is written in order: once our own marker is in it, everything before is.
        token = f"audit-marker-{time.monotonic_ns()}"
        path = f"/api/v1/namespaces/default/configmaps/{token}"
        self._pool().request("GET", self.url + path, headers={"User-Agent": HARNESS})
        deadline = time.monotonic() + 10
        while token.encode() not in self._tail():
            assert time.monotonic() < deadline, "the audit log does not move"
            time.sleep(0.02)

    def _tail(self) -> bytes:
        if not self.audit_log.exists():
            return b""
        with self.audit_log.open("rb") as log:
            log.seek(max(0, self.audit_log.stat().st_size - 65536))
            return log.read()


def _ready(server: ApiServer) -> bool:
    try:
        answer = server._pool().request("GET", server.url + "/readyz", retries=False, timeout=2)
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status == 200


@contextlib.contextmanager
def running(tools: Path, state: Path) -> Iterator[ApiServer]:
    """Start etcd and kube-apiserver, wait until it is ready, and stop both at the end."""
    port, client, peer = free_port(), free_port(), free_port()
    url = f"https://127.0.0.1:{port}"
    secrets = state / "pki"
    pki.write(secrets, url, [])
    policy = state / "audit-policy.json"
    policy.write_text(json.dumps(AUDIT_POLICY))
    server = ApiServer(url, secrets / "admin.kubeconfig", state / "audit.log", secrets)
    commands = {
        "etcd": [
            f"--data-dir={state}/etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--log-level=warn",
        ],
        "kube-apiserver": [
            f"--etcd-servers=http://127.0.0.1:{client}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={secrets}/server.crt",
            f"--tls-private-key-file={secrets}/server.key",
            f"--client-ca-file={secrets}/ca.crt",
            f"--service-account-key-file={secrets}/sa.pub",
            f"--service-account-signing-key-file={secrets}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.152.183.0/24",
            "--authorization-mode=RBAC",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
            "--profiling=false",
            # No controller-manager here to make the account that pods would run as.
            "--disable-admission-plugins=ServiceAccount",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={server.audit_log}",
        ],
    }
    try:
        for name, arguments in commands.items():
            log = (state / f"{name}.log").open("wb")
            server.processes.append(
                subprocess.Popen(
                    [str(tools / name), *arguments],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd=state,
                    env={"PATH": "/usr/bin:/bin", "GOGC": "40"},
                    preexec_fn=_die_with_parent,
                )
            )
        deadline = time.monotonic() + READY_SECONDS
        while not _ready(server):
            for process, name in zip(server.processes, commands, strict=True):
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended: {(state / f'{name}.log').read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"kube-apiserver not ready after {READY_SECONDS} s, see {state}/kube-apiserver.log")
            time.sleep(0.1)
        yield server
    finally:
        for process in reversed(server.processes):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
