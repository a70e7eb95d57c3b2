# SPDX-License-Identifier: GPL-3.0-or-later
"""One JSON line for each call of a simulated program: what was run, how it ended, whether it changes anything.

Tests read it to prove that a second run calls nothing that changes a host, so the classification
errs towards "changes": what is not known to be a look only counts as a change.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence

from .host import Host

_SECRET = re.compile(r"[0-9a-f]{32}(?:/[0-9a-f]{12})?|\b[0-9a-f]{40,}\b", re.IGNORECASE)
_SECRET_FLAGS = ("--token", "-t", "--password", "--docker-password", "--from-literal", "--set", "--set-string")

_SNAP_READS = {
    "", "version", "list", "info", "aliases", "get", "services", "changes", "tasks", "wait", "find", "connections",
    "known", "help", "--version", "--help", "-h", "interfaces", "logs", "whoami", "warnings", "model", "debug",
}  # fmt: skip
_MICROK8S_READS = {"", "status", "config", "version", "inspect", "help", "--help", "-h"}
_KUBECTL_READS = {
    "", "get", "describe", "logs", "version", "api-resources", "api-versions", "explain", "wait", "top", "events",
    "cluster-info", "diff", "options", "help", "completion", "--help",
}  # fmt: skip
_HELM_READS = {
    "", "list", "ls", "status", "get", "history", "version", "template", "show", "inspect", "search", "env", "lint",
    "pull", "fetch", "help", "diff", "completion", "--help",
}  # fmt: skip


def words(argv: Sequence[str]) -> list[str]:
    """The sub-commands: arguments that are neither options nor the value of a leading option."""
    found: list[str] = []
    skip = False
    for arg in argv:
        if skip:
            skip = False
        elif arg.startswith("-"):
            skip = "=" not in arg and arg in ("-n", "--namespace", "--kubeconfig", "--context", "-s", "--server", "-v")
        else:
            found.append(arg)
    return found


def _any_prefix(argv: Sequence[str], *prefixes: str) -> bool:
    return any(a == p or a.startswith(p + "=") for a in argv for p in prefixes)


def _snap_mutates(argv: Sequence[str]) -> bool:
    sub = (words(argv) or [""])[0]
    if sub == "refresh":
        return not _any_prefix(argv, "--list", "--time")
    return sub not in _SNAP_READS


def _kubectl_mutates(argv: Sequence[str]) -> bool:
    sub = words(argv) or [""]
    if any(a in ("--dry-run=client", "--dry-run=server", "--dry-run") for a in argv):
        return False
    if sub[0] == "config":
        return sub[1:2] not in (["view"], ["current-context"], ["get-contexts"], ["get-clusters"], ["get-users"])
    if sub[0] == "auth":
        return sub[1:2] not in (["can-i"], ["whoami"])
    if sub[0] == "rollout":
        return sub[1:2] not in (["status"], ["history"])
    return sub[0] not in _KUBECTL_READS


def _helm_mutates(argv: Sequence[str]) -> bool:
    sub = words(argv) or [""]
    if _any_prefix(argv, "--dry-run"):
        return False
    if sub[0] in ("repo", "plugin", "registry"):
        return sub[1:2] != ["list"]
    return sub[0] not in _HELM_READS


def _microk8s_mutates(argv: Sequence[str]) -> bool:
    sub = words(argv) or [""]
    rest = list(argv)[list(argv).index(sub[0]) + 1 :] if sub[0] else []
    if sub[0] == "kubectl":
        return _kubectl_mutates(rest)
    if sub[0] in ("helm", "helm3"):
        return _helm_mutates(rest)
    if sub[0] == "ctr":
        return not {"ls", "list", "version", "info"} & set(sub[1:])
    if sub[0] == "dbctl":
        return sub[1:2] == ["restore"]
    if sub[0] == "images":
        return sub[1:2] == ["import"]
    if sub[0] == "addons":
        return sub[1:3] != ["repo", "list"] and len(sub) > 1
    if sub[0] == "refresh-certs":
        return not any(a in ("-c", "--check") for a in rest)
    if _any_prefix(rest, "--help"):
        return False
    return sub[0] not in _MICROK8S_READS


def mutating(program: str, argv: Sequence[str]) -> bool:
    if program == "snap":
        return _snap_mutates(argv)
    if program == "microk8s":
        return _microk8s_mutates(argv)
    if program == "nvidia-smi":
        return any(a.split("=")[0] in ("-pm", "-r", "--gpu-reset", "-pl", "-lgc", "-mig", "-c", "-e") for a in argv)
    if program == "nvidia-ctk":
        return words(argv)[:2] not in ([], ["cdi", "list"]) and "--dry-run" not in argv
    return True


def redact(argv: Sequence[str]) -> list[str]:
    """The arguments without anything that looks like a join token or is the value of a secret-bearing option."""
    clean: list[str] = []
    hide = False
    for arg in argv:
        if hide:
            clean.append("<hidden>")
            hide = False
            continue
        flag, given, _value = arg.partition("=")
        if flag in _SECRET_FLAGS:
            hide = not given
            clean.append(f"{flag}=<hidden>" if given else arg)
        else:
            clean.append(_SECRET.sub("<token>", arg))
    if clean[:1] == ["join"]:
        clean = [re.sub(r"^([^/\s]+)/.+$", r"\1/<token>", a) for a in clean]
    if clean[:1] == ["set"]:
        clean = [re.sub(r"=.*", "=<hidden>", a, flags=re.DOTALL) for a in clean]
    return clean


def record(host: Host, program: str, argv: Sequence[str], rc: int, started: float) -> None:
    entry = {
        "t": round(time.time(), 3),
        "host": host.name,
        "argv": [program, *redact(argv)],
        "rc": rc,
        "ms": round((time.monotonic() - started) * 1000),
        "mutating": mutating(program, argv),
        "user": os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.geteuid()),
    }
    line = json.dumps(entry, ensure_ascii=False) + "\n"
    try:
        host.state.mkdir(parents=True, exist_ok=True)
        fd = os.open(host.state / "journal.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except PermissionError:
        return
    with os.fdopen(fd, "w") as out:
        out.write(line)
