# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster-agent: HTTPS on port 25000 with the host's own certificate, and the launch configuration's worker.

The parent only listens; each request is answered by a child, so that what a request needs (TLS, openssl,
JSON) weighs on the host only for that moment.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from .host import AGENT_PORT, Host

LAUNCH_RETRY = 5.0


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# -- tokens
def _split(line: str) -> tuple[str, float]:
    token, _, expiry = line.strip().partition("|")
    return token, float(expiry) if expiry else 0.0


def take_token(host: Host, token: str) -> bool:
    """Is it valid? A token without expiry is used up at once, whatever becomes of the join.

    The file is read, and written back later, without a lock: as in the real agent, a token that is minted
    in between is lost.
    """
    persistent = host.credentials / "persistent-cluster-tokens.txt"
    if persistent.exists() and token in persistent.read_text().split():
        return True
    path = host.credentials / "cluster-tokens.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    expired = bool(host.fault("token_expired"))
    kept, good = [], False
    for line in lines:
        known, expiry = _split(line)
        if known != token:
            kept.append(line)
        elif expiry:
            good = expiry >= time.time() and not expired
            kept.append(line)
        else:
            good = not expired
    if good and len(kept) != len(lines):
        time.sleep(0.05)
        with open(path, "w") as out:
            out.write("".join(line + "\n" for line in kept))
    return good


def _append(host: Host, name: str, line: str) -> None:
    with open(host.credentials / name, "a") as out:
        out.write(line + "\n")


def _spend(host: Host, name: str, token: str) -> bool:
    path = host.credentials / name
    lines = path.read_text().splitlines() if path.exists() else []
    if token not in lines:
        return False
    with open(path, "w") as out:
        out.write("".join(line + "\n" for line in lines if line != token))
    return True


# -- requests
def join(host: Host, body: dict[str, Any], peer: str, asked: str) -> dict[str, Any]:
    from . import argfile, dqlite, tree

    if not take_token(host, str(body.get("token", ""))):
        raise Refusal(500, "Invalid token")
    if not host.locked("ha-cluster"):
        raise Refusal(501, "Not possible to join. This is not an HA MicroK8s cluster")
    if str(body.get("port")) != str(AGENT_PORT):
        raise Refusal(502, f"The port of the cluster agent port has to be set to {AGENT_PORT}.")
    if peer == asked:
        raise Refusal(503, f"The joining node has the same IP ({peer}) as the node we contact")
    members = dqlite.read(host)
    if any(m.ip == peer for m in members):
        raise Refusal(
            500, f"Failed to retrieve dqlite cluster nodes: the joining node ({peer}) is already known to dqlite"
        )
    if len(members) > 1 and not dqlite.has_quorum(host):
        raise Refusal(500, "Failed to retrieve dqlite cluster nodes: no available dqlite leader server found")
    leave_loopback(host, asked)
    host.lock("no-cert-reissue").touch()
    common = {
        "ca": (host.certs / "ca.crt").read_text(),
        "ca_key": None,
        "apiport": argfile.read(host.args / "kube-apiserver").get("--secure-port", "16443"),
        "kubelet_args": (host.args / "kubelet").read_text(),
        "hostname_override": peer,
        "callback_token": tree.callback_token(host),
        "cluster_cidr": argfile.read(host.args / "kube-proxy").get("--cluster-cidr", ""),
        "api_authz_mode": argfile.read(host.args / "kube-apiserver").get("--authorization-mode", ""),
    }
    return {**common, **(for_worker(host, str(body["token"])) if body.get("worker") else for_control_plane(host))}


def for_worker(host: Host, token: str) -> dict[str, Any]:
    from . import dqlite

    for name in ("kubelet", "proxy"):
        _append(host, "certs-request-tokens.txt", f"{token}-{name}")
    return {"control_plane_nodes": [m.ip for m in dqlite.read(host)]}


def for_control_plane(host: Host) -> dict[str, Any]:
    from . import dqlite

    return {
        "ca_key": (host.certs / "ca.key").read_text(),
        "service_account_key": (host.certs / "serviceaccount.key").read_text(),
        "cluster_cert": (host.backend / "cluster.crt").read_text(),
        "cluster_key": (host.backend / "cluster.key").read_text(),
        "voters": [m.address for m in dqlite.read(host) if m.role == dqlite.VOTER],
        "lab_api": host.api_url,  # the lab's own: where the API server of this cluster really listens
    }


def leave_loopback(host: Host, address: str) -> None:
    """The first join of any node moves dqlite from the loopback address to the one that was asked: the API blips."""
    from . import dqlite, tree
    from .units import Services

    if not any(m.ip == "127.0.0.1" for m in dqlite.read(host)):
        return
    services = Services(host)
    services.stop(["daemon-k8s-dqlite"])
    tree.make_backend(host, f"{address}:{dqlite.PORT}")
    if os.fork() == 0:
        time.sleep(host.settings.rebind_delay)
        services.start(["daemon-k8s-dqlite"])
        os._exit(0)


def sign(host: Host, body: dict[str, Any]) -> dict[str, Any]:
    from . import pki, tree

    if not _spend(host, "certs-request-tokens.txt", str(body.get("token", ""))):
        raise Refusal(500, "Invalid token")
    try:
        return {"certificate": pki.sign(tree.authorities(host), str(body.get("request", "")))}
    except RuntimeError:
        raise Refusal(500, "Failed to sign certificate") from None


def configure(host: Host, body: dict[str, Any]) -> dict[str, Any]:
    """The control plane changes arguments of this node's services."""
    from . import argfile
    from .units import Services

    path = host.credentials / "callback-token.txt"
    if not path.exists() or path.read_text().strip() != str(body.get("callback", "")):
        raise Refusal(500, "invalid token")
    restart: list[str] = []
    for service in body.get("configuration") or []:
        changes: dict[str, str | None] = {}
        for update in service.get("arguments_update") or []:
            changes.update(update)
        changes.update(dict.fromkeys(service.get("arguments_remove") or []))
        argfile.update(host.args / str(service["name"]), changes)
        if service.get("restart"):
            name = str(service["name"])
            restart.append("daemon-containerd" if name == "containerd" else "daemon-kubelite")
    if restart:
        Services(host).restart(dict.fromkeys(restart))
    return {"result": "ok"}


def import_images(host: Host, body: bytes, callback: str) -> dict[str, Any]:
    from . import images

    path = host.credentials / "callback-token.txt"
    if not path.exists() or path.read_text().strip() != callback:
        raise Refusal(500, "invalid token")
    return {"images": images.remember(host, body)}


def answer(
    host: Host, method: str, path: str, body: bytes, peer: str, asked: str, callback: str = ""
) -> tuple[int, dict[str, Any]]:
    try:
        if path == "/health":
            return 200, {"status": "OK"}
        if method == "POST" and path == "/cluster/api/v2.0/image/import":
            return 200, import_images(host, body, callback)
        data = json.loads(body) if body else {}
        if method != "POST" or not isinstance(data, dict):
            raise Refusal(404, "not found")
        if path == "/cluster/api/v2.0/join":
            return 200, join(host, data, peer, asked)
        if path == "/cluster/api/v1.0/sign-cert":
            return 200, sign(host, data)
        if path == "/cluster/api/v1.0/configure":
            return 200, configure(host, data)
        raise Refusal(404, "not found")
    except Refusal as refusal:
        return refusal.status, {"error": str(refusal)}
    except ValueError as error:
        return 400, {"error": f"failed to read request: {error}"}


# -- the server
def serve_one(host: Host, plain: socket.socket, peer: str) -> None:
    import ssl

    plain.settimeout(240)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(host.certs / "server.crt", host.certs / "server.key")
    with tls.wrap_socket(plain, server_side=True) as stream:
        reader = stream.makefile("rb")
        while True:
            first = reader.readline(65536)
            if not first.strip():
                return
            method, path, _ = first.decode("latin-1").split(" ", 2)
            headers: dict[str, str] = {}
            while (line := reader.readline(65536).decode("latin-1").strip()) != "":
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            body = reader.read(min(int(headers.get("content-length", "0") or 0), 1 << 26))
            asked = headers.get("host", "").rpartition(":")[0]
            callback = headers.get("x-microk8s-callback-token", "")
            status, result = answer(host, method, path.partition("?")[0], body, peer, asked, callback)
            text = json.dumps(result).encode()
            reason = {200: "OK", 400: "Bad Request", 404: "Not Found"}.get(status, "Error")
            stream.sendall(
                f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(text)}\r\n\r\n".encode()
                + text
            )


def launch_once(host: Host) -> None:
    """Apply the addons of a pending launch configuration; on success it is renamed, else tried again for ever."""
    from . import launch
    from .console import Exit
    from .toggle import disable, enable

    held = open(host.common / "etc/launcher/.busy", "w")  # noqa: SIM115 - until this child ends
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    for path in launch.pending(host):
        try:
            for name, on, arguments in launch.addons(launch.parse(path.read_text())):
                (enable if on else disable)(host, [":".join([name, *arguments])])
        except (launch.LaunchError, OSError) as error:
            print(f"launch configuration: {error}", file=sys.stderr, flush=True)
            continue
        except Exit as end:
            if end.code:
                print(f"launch configuration: an addon ended with {end.code}", file=sys.stderr, flush=True)
                continue
        path.rename(path.with_name(path.name + ".applied"))


def _child(work: Any, *arguments: Any) -> None:
    if os.fork():
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        work(*arguments)
    except Exception as error:
        print(f"cluster-agent: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(0)


def _reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main(argv: Sequence[str]) -> int:
    host = Host()
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.settings.address or "0.0.0.0", AGENT_PORT))
    listener.listen(64)
    launcher = host.common / "etc/launcher"
    due = time.monotonic() + host.settings.launch_delay
    while True:
        todo = any(launcher.glob("*.yaml")) and not host.is_worker
        timeout = max(0.0, due - time.monotonic()) if todo else 60.0
        if select.select([listener], [], [], timeout)[0]:
            connection, (peer, _port) = listener.accept()
            _child(serve_one, host, connection, peer)
            connection.close()
        elif todo:
            due = time.monotonic() + LAUNCH_RETRY
            _child(launch_once, host)
