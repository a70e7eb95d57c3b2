# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s add-node`: mint a join token."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

from . import options, pki
from .console import WORKER_ONE_LINE, finish, need_permission, need_started, not_on_worker, usage
from .host import AGENT_PORT, Host

FORMATS = ("pretty", "short", "token", "token-check", "json", "yaml")
SYNOPSIS = "[OPTIONS]"


def remember(host: Host, token: str, ttl: int) -> None:
    """Append to the token file, without a lock: two hosts that join at the same time can lose a token here."""
    line = token if ttl < 0 else f"{token}|{int(time.time()) + ttl}"
    path = host.credentials / "cluster-tokens.txt"
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o660), "a") as out:
        out.write(line + "\n")
    # For tests only: what must be found nowhere else.
    minted = host.state / "minted-tokens"
    with open(os.open(minted, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as out:
        out.write(token + "\n")


def render(form: str, token: str, check: str, default: str, addresses: Sequence[str]) -> str:
    urls = [f"{a}:{AGENT_PORT}/{token}/{check}" for a in addresses]
    joins = [f"microk8s join {url}" for url in urls]
    first = f"microk8s join {default}:{AGENT_PORT}/{token}/{check}"
    if form == "short":
        return "\n".join(joins)
    if form == "token":
        return token
    if form == "token-check":
        return f"{token}/{check}"
    if form == "json":
        return json.dumps({"token": f"{token}/{check}", "urls": urls}, indent=2)
    if form == "yaml":
        return "\n".join([f"token: {token}/{check}", "urls:", *(f"- {url}" for url in urls)])
    return "\n".join(
        [
            "From the node you wish to join to this cluster, run the following:",
            first,
            "",
            "Use the '--worker' flag to join a node as a worker not running the control plane, eg:",
            f"{first} --worker",
            "",
            "If the node you are adding is not reachable through the default interface "
            "you can use one of the following:",
            *joins,
        ]
    )


def run(host: Host, argv: Sequence[str]) -> None:
    not_on_worker(host, WORKER_ONE_LINE + "add-node on the master.", 1)
    need_permission(host)
    if pki.is_ancient(host.certs / "ca.crt"):
        finish(
            1,
            out="Clustering requires a fresh MicroK8s installation. Reinstall with:\n"
            "sudo snap remove microk8s\nsudo snap install microk8s --classic",
        )
    need_started(host)
    found = options.parse(
        "microk8s add-node",
        SYNOPSIS,
        argv,
        {"-l": "ttl", "--token-ttl": "ttl", "-t": "token", "--token": "token", "--format": "format"},
        [],
    )
    form, token = found.options.get("format", "pretty"), found.options.get("token")
    if form not in FORMATS:
        usage(
            "microk8s add-node",
            SYNOPSIS,
            f"Invalid value for '--format': {form!r} is not one of " + ", ".join(repr(f) for f in FORMATS) + ".",
        )
    if token is not None and len(token) < 32:
        finish(1, out="Invalid token size.  It must be 32 characters long.")
    token = token or os.urandom(16).hex()
    remember(host, token, int(found.options.get("ttl", -1)))
    check = pki.fingerprint((host.certs / "server.crt").read_text())
    finish(0, out=render(form, token, check, host.address, host.addresses))
