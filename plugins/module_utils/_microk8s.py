# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a MicroK8s node is, read from its files, and what has to happen to it next.

On a worker the ``microk8s`` commands exit 0 and do nothing, and on a stopped node ``status`` exits 0 too. So
membership and role come from lock files and certificates; the command line is asked only on a control plane, and
only for what no file knows.

This module is private to the collection.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._node import (
    BEFORE_CHANGE,
    TAINTS_ANNOTATION,
    MicroK8sError,
    Run,
    Template,
    imported,
    parse_args,
    parse_managed_args,
    parse_other_args,
    parse_template,
    read_system,
    text_of,
)

MICROK8S = "/snap/bin/microk8s"
CURRENT = "var/snap/microk8s/current"
COMMON = "var/snap/microk8s/common"
# Restarting a unit makes its file effective; a file younger than the unit's process is not yet in force.
SERVICE_FILES = {"kubelite": "args/kubelet", "containerd": "args/containerd-template.toml"}
# On a Node that a playbook has cordoned: what for. One manager owns both, so that a cordon of others is left alone.
MAINTENANCE_ANNOTATION = "tokenlabs.io/maintenance"
# From this number of days on, the end of a certificate is told; MicroK8s makes the API server's for a year.
WARN_DAYS = 30
# Programs of MicroK8s that people may call by their own names, by the names that snapd puts into /snap/bin.
ALIASES = ("kubectl", "helm")
CERTIFICATES = ("ca.crt", "server.crt", "front-proxy-client.crt", "ca.remote.crt", "kubelet.crt", "proxy.crt")


@dataclass(frozen=True)
class Snap:
    """One line of ``snap list``."""

    version: str = ""
    revision: str = ""
    channel: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """What a channel of the snap store holds for one architecture."""

    version: str
    revision: str


@dataclass(frozen=True)
class State:
    """Everything that the role decides on, as found on one host."""

    node_name: str = ""
    snapd: bool = True
    installed: bool = False
    version: str = ""
    revision: str = ""
    channel: str = ""
    held: bool = False
    broken: bool = False
    stopped: bool = False
    launch_done: bool = True
    role: str | None = None
    member: bool | None = None
    half_joined: bool = False
    join_in_progress: bool = False
    join_running: bool = False
    has_peers: bool = False
    datastore_address: str = ""
    datastore: tuple[str, ...] = ()
    voters: tuple[str, ...] = ()
    join_tokens: int = 0
    user_namespaces: tuple[str, ...] = ()
    ca_fingerprint: str | None = None
    remote_ca_fingerprint: str | None = None
    certificates: dict[str, str] = field(default_factory=dict)
    args: dict[str, dict[str, str]] = field(default_factory=lambda: {"kubelet": {}, "kube-apiserver": {}})
    managed_args: dict[str, str] = field(default_factory=dict)
    other_args: dict[str, str] = field(default_factory=dict)
    template: Template = field(default_factory=Template)
    pending_restart: tuple[str, ...] = ()
    unproven: bool = False
    aliases: dict[str, str] = field(default_factory=dict)
    refreshes: tuple[str, ...] = ()
    store_channels: tuple[str, ...] = ()
    apparmor_rule: bool = False
    ssh_keepalive: bool = False
    swaps: tuple[str, ...] = ()
    swap_masked: bool = False
    time_sync: str = "missing"
    gpu_driver: str | None = None
    gpu_error: str | None = None


@dataclass(frozen=True)
class Target:
    """What a host shall be.

    :param role: ``controller`` or ``worker``.
    :param channel: the snap channel with its risk, such as ``1.34/stable``; empty when any will do.
    :param chosen: this is the controller through which the cluster is seen, and which others join.
    :param address: the host's address for the cluster's traffic, without a port.
    :param datastore: the members of the datastore, ``address:port``, as the chosen controller has them.
    :param force: leave another cluster, or give up data of its own.
    """

    role: str = "worker"
    channel: str = ""
    chosen: bool = False
    address: str = ""
    datastore: tuple[str, ...] = ()
    force: bool = False

    @property
    def in_datastore(self) -> bool:
        """Whether the datastore counts this host as a member, whatever the host itself says."""
        return self.address in {member.rpartition(":")[0] for member in self.datastore}


@dataclass(frozen=True)
class Action:
    """What the role has to do with a node next, and why."""

    kind: str
    reason: str


# --- parsers ---


def parse_snap_list(text: str, name: str = "microk8s") -> Snap | None:
    """Read the line of one snap; None when the table does not name it."""
    for line in text.splitlines():
        columns = line.split()
        if len(columns) >= 6 and columns[0] == name:
            notes = () if columns[5] == "-" else tuple(columns[5].split(","))
            return Snap(columns[1], columns[2], columns[3], notes)
    return None


def parse_channels(text: str) -> dict[str, Build]:
    """The channels of ``snap info``, for this machine's architecture; empty when the store was not reached.

    One that is closed (a dash, or two) is left out; one that follows the less risky one above it (``^`` or an arrow)
    has its build.
    """
    channels: dict[str, Build] = {}
    above: Build | None = None
    inside = False
    for line in text.splitlines():
        if not line.startswith(" "):
            inside = line.startswith("channels:")
            continue
        name, separator, rest = line.strip().partition(":")
        words = rest.split()
        if not inside or not separator or not words:
            continue
        revision = re.search(r"\((\w+)\)", rest)
        if revision:
            above = Build(words[0], revision.group(1))
        elif words[0] in ("--", "–"):
            above = None
        if above is not None:
            channels[name] = above
    return channels


def parse_refreshes(text: str, name: str = "microk8s") -> tuple[str, ...]:
    """The lines of ``snap changes`` that tell of an automatic refresh of one snap, with single blanks."""
    lines = (" ".join(line.split()) for line in text.splitlines()[1:])
    return tuple(line for line in lines if "auto-refresh" in line.lower() and name in line)


def parse_minor(channel: str) -> int | None:
    """The minor version of a channel such as ``1.34/stable``; None for ``latest/stable``."""
    match = re.match(r"1\.(\d+)(/|$)", channel)
    return int(match.group(1)) if match else None


def parse_status(text: str) -> tuple[bool, dict[str, bool]]:
    """``microk8s status --format short``: (is it running, addon -> enabled)."""
    lines = text.splitlines()
    running = bool(lines) and lines[0].strip() == "microk8s is running"
    addons: dict[str, bool] = {}
    for line in lines[1:]:
        name, separator, state = line.strip().partition(": ")
        if separator and state in ("enabled", "disabled"):
            addons[name.rpartition("/")[2]] = state == "enabled"
    return running, addons


def parse_members(text: str) -> dict[str, str]:
    """The datastore's cluster.yaml: address -> role, which is ``voter``, ``standby`` or ``spare``."""
    entries: dict[str, str] = {}
    for entry in re.split(r"^-", text, flags=re.MULTILINE)[1:]:
        values = dict(re.findall(r"^\s*(\w+):\s*(\S+)", entry, re.MULTILINE))
        if "Address" in values:
            entries[values["Address"]] = {"1": "standby", "2": "spare"}.get(values.get("Role", "0"), "voter")
    return entries


def parse_address(text: str) -> str:
    """The datastore's own address in its info.yaml."""
    match = re.search(r"^Address:\s*(\S+)", text, re.MULTILINE)
    return match.group(1) if match else ""


def parse_forward(corefile: str) -> tuple[str, ...]:
    """The name servers that CoreDNS asks for everything outside of the cluster."""
    match = re.search(r"^\s*forward\s+\.\s+([^{\n]+)", corefile, re.MULTILINE)
    return tuple(match.group(1).split()) if match else ()


def parse_service_starts(text: str) -> dict[str, float]:
    """``systemctl show`` of several units: short unit name -> seconds since boot at which its process started."""
    starts: dict[str, float] = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        stamp = values.get("ExecMainStartTimestampMonotonic", "0")
        if values.get("Id") and stamp.isdigit() and int(stamp) > 0:
            name = values["Id"].removeprefix("snap.microk8s.daemon-").removesuffix(".service")
            starts[name] = int(stamp) / 1e6
    return starts


def summarise_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a Node that decisions need."""
    status, spec = node.get("status", {}), node.get("spec", {})
    managed = node["metadata"].get("annotations", {}).get(TAINTS_ANNOTATION, "")
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    ready = conditions.get("Ready", {})
    addresses = {item["type"]: item["address"] for item in status.get("addresses", [])}
    return {
        "uid": node["metadata"].get("uid", ""),
        "ready": ready.get("status") == "True",
        "message": ready.get("message", "the kubelet has not reported yet"),
        "heartbeat": ready.get("lastHeartbeatTime") or "",
        "kubelet_version": status.get("nodeInfo", {}).get("kubeletVersion", ""),
        "address": addresses.get("InternalIP", ""),
        "unschedulable": bool(spec.get("unschedulable")),
        "maintenance": node["metadata"].get("annotations", {}).get(MAINTENANCE_ANNOTATION, ""),
        "taints": spec.get("taints", []),
        "managed_taints": [mark for mark in managed.split(",") if mark],
    }


def certificate_fingerprint(pem: str) -> str | None:
    """SHA-256 of the first certificate, so that white space around it does not matter."""
    match = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    if not match:
        return None
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(match.group(0))).hexdigest()


def certificate_end(pem: str) -> str | None:
    """When the first certificate ends, in ISO 8601.

    The validity of an X.509 certificate is the one sequence of two times in it (RFC 5280, 4.1.2.5).
    """
    match = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    time_value = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
    found = match and re.search(rb"\x30." + 2 * time_value, ssl.PEM_cert_to_DER_cert(match.group(0)), re.DOTALL)
    if not found:
        return None
    digits = (found.group(4) or _century(found.group(3))).decode()
    return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).isoformat()


def _century(digits: bytes) -> bytes:
    return (b"19" if digits[:1] >= b"5" else b"20") + digits


# --- reading a host ---


def _user_namespaces(root: Path, installed_at: float) -> tuple[str, ...]:
    """Namespaces of pods that have run since MicroK8s was installed; older directories are of an earlier one."""
    found = set()
    for entry in (root / "var/log/pods").glob("*_*_*"):
        namespace = entry.name.split("_", 1)[0]
        if namespace != "kube-system" and entry.stat().st_mtime > installed_at:
            found.add(namespace)
    return tuple(sorted(found))


def _join_running(proc: Path) -> bool:
    """Whether a join is at work, such as one whose caller was killed."""
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        names = [word.rpartition("/")[2] for word in words]
        if {"join.py", "microk8s-join.wrapper"} & set(names) or ("microk8s" in names and "join" in words):
            return True
    return False


def _pending_restart(current: Path, run: Run) -> tuple[str, ...]:
    units = [f"snap.microk8s.daemon-{name}.service" for name in SERVICE_FILES]
    _rc, out, _err = run(["systemctl", "show", "--property=Id,ExecMainStartTimestampMonotonic", *units])
    starts = parse_service_starts(out)
    boot = time.time() - time.monotonic()
    pending = []
    for name, relative in SERVICE_FILES.items():
        path = current / relative
        if name in starts and path.exists() and path.stat().st_mtime > boot + starts[name]:
            pending.append(name)
    return tuple(pending)


def _aliases(root: Path) -> dict[str, str]:
    """Name -> what it stands for; empty when it is free. A program of another snap is a link to snap itself."""
    links = {name: root / "snap/bin" / name for name in ALIASES}
    return {name: os.readlink(path) if path.is_symlink() else "" for name, path in links.items()}


def read_state(
    run: Run, expected_ca: str | None = None, root: Path = Path("/"), store: bool = False, gpu: bool = False
) -> State:
    """Read one host.

    :param expected_ca: the fingerprint of the CA that a member of the cluster must trust.
    :param store: ask the snap store for its channels, if MicroK8s is not installed.
    :param gpu: ask the GPU's driver as well.
    """
    system = read_system(run, root, gpu)
    rc, out, err = run(["snap", "list", "microk8s"])
    snap = parse_snap_list(out)
    if snap is None:
        if rc != 0 and "no matching snaps installed" not in err and rc != 127:
            raise MicroK8sError(f"snap list microk8s failed: {err.strip() or out.strip()}")
        channels = tuple(parse_channels(run(["snap", "info", "microk8s"])[1])) if store and rc != 127 else ()
        return State(snapd=rc != 127, aliases=_aliases(root), store_channels=channels, **system)

    current, common = root / CURRENT, root / COMMON
    lock, certs, backend = current / "var/lock", current / "certs", current / "var/kubernetes/backend"
    clustered = (lock / "clustered.lock").exists()
    pems = {name: text_of(certs / name) for name in CERTIFICATES}
    own_ca, remote_ca = certificate_fingerprint(pems["ca.crt"]), certificate_fingerprint(pems["ca.remote.crt"])
    members = {} if clustered else parse_members(text_of(backend / "cluster.yaml"))
    own_address = "" if clustered else parse_address(text_of(backend / "info.yaml"))
    in_datastore = len(members) > 1 and own_address in members
    in_progress = (lock / "join-in-progress").exists()
    broken_off = (in_progress and not in_datastore) or (remote_ca is not None) != clustered
    if clustered:
        member = None if expected_ca is None else remote_ca == expected_ca
        broken_off = broken_off or not (lock / "no-cert-reissue").exists()
    else:
        trusts = own_ca == expected_ca
        member = None if expected_ca is None else trusts and in_datastore
        broken_off = broken_off or (expected_ca is not None and trusts and not in_datastore)
    tokens = re.findall(r"^\w+\|\d+$", text_of(current / "credentials/cluster-tokens.txt"), re.MULTILINE)
    installed_lock = lock / "installed.lock"
    installed_at = installed_lock.stat().st_mtime if installed_lock.exists() else 0.0
    kubelet = text_of(current / "args/kubelet")
    template = parse_template(text_of(current / SERVICE_FILES["containerd"]), imported(root))
    held = "held" in snap.notes
    return State(
        **system,
        installed=True,
        version=snap.version,
        revision=snap.revision,
        channel=snap.channel,
        held=held,
        broken=bool({"broken", "disabled"} & set(snap.notes)),
        stopped=(lock / "stopped.lock").exists(),
        launch_done=not list((common / "etc/launcher").glob("*.yaml")),
        role="worker" if clustered else "controlplane",
        member=member,
        half_joined=broken_off,
        join_in_progress=in_progress,
        join_running=in_progress and _join_running(root / "proc"),
        # The first join of any kind makes a control plane keep its certificate (cluster-agent pkg/api/v2/join.go).
        has_peers=not clustered and (len(members) > 1 or (lock / "no-cert-reissue").exists()),
        datastore_address=own_address,
        datastore=tuple(members),
        voters=tuple(address for address, role in members.items() if role == "voter"),
        join_tokens=len(tokens),
        user_namespaces=() if clustered else _user_namespaces(root, installed_at),
        ca_fingerprint=own_ca,
        remote_ca_fingerprint=remote_ca,
        certificates={name: end for name, pem in pems.items() if (end := certificate_end(pem))},
        args={"kubelet": parse_args(kubelet), "kube-apiserver": parse_args(text_of(current / "args/kube-apiserver"))},
        managed_args=parse_managed_args(kubelet),
        other_args=parse_other_args(kubelet),
        template=template,
        pending_restart=_pending_restart(current, run),
        unproven=any((current / f"{name}{BEFORE_CHANGE}").exists() for name in SERVICE_FILES.values()),
        aliases=_aliases(root),
        refreshes=() if held else parse_refreshes(run(["snap", "changes", "microk8s"])[1]),
    )


def read_cluster(state: State, run: Run, addons: bool = True, arguments: bool = False) -> dict[str, Any]:
    """What the API of this control plane says. Everything is empty while it does not answer.

    :param addons: ask which addons are enabled, which takes seconds.
    :param arguments: read what the addons really run with, as their command line tells only what they were given.
    """
    silent: dict[str, Any] = {"api": False, "running": False, "addons": {}, "nodes": {}, "arguments": {}}
    if not state.installed or state.stopped or state.role != "controlplane":
        return silent
    found = _objects(run, "nodes")
    if found is None:
        return silent
    items = found.get("items") or []
    answer = {**silent, "api": True, "nodes": {item["metadata"]["name"]: summarise_node(item) for item in items}}
    if addons:
        rc, out, _err = run([MICROK8S, "status", "--format", "short"])
        running, answer["addons"] = parse_status(out)
        answer["running"] = rc == 0 and running
    if arguments:
        corefile = ((_objects(run, "configmap/coredns", "-n", "kube-system") or {}).get("data") or {}).get("Corefile")
        pool = _objects(run, "ipaddresspools.metallb.io/default-addresspool", "-n", "metallb-system") or {}
        answer["arguments"] = {
            "dns": {"corefile": corefile, "servers": list(parse_forward(corefile or ""))},
            "metallb": {"addresses": (pool.get("spec") or {}).get("addresses", [])},
        }
    return answer


def _objects(run: Run, *what: str) -> dict[str, Any] | None:
    """Read objects with MicroK8s' own kubectl; None when there is no answer or no such object."""
    rc, out, _err = run([MICROK8S, "kubectl", "get", *what, "-o", "json", "--request-timeout=10s"])
    if rc != 0:
        return None
    try:
        found = json.loads(out)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


# --- deciding ---


def choose(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The controller to work on, of those that were read; the first one in the order given where they are alike.

    :param found: controller names with what the module returned for O(gather=[state, nodes]).

    A member of a cluster goes before a host of its own, as that would make a second cluster; then one whose API
    answers goes before one that is down.
    """

    def rank(name: str) -> tuple[bool, ...]:
        state = found[name]
        return (
            not (state["has_peers"] and not state["half_joined"]),
            state["half_joined"],
            state["role"] == "worker",
            state["role"] is None,
            not state["cluster"]["api"],
            state["stopped"],
        )

    return min(found, key=rank)


def decide(state: State, node: Mapping[str, Any] | None, target: Target) -> Action:
    """The next step for one host.

    :param node: the host's Node as the chosen controller sees it; empty when there is none, None when nobody looked.
    """
    if not state.snapd:
        return Action("fail", "snapd is not installed; install the package snapd first")
    if not state.installed:
        if target.channel and state.store_channels and target.channel not in state.store_channels:
            return Action(
                "fail",
                f"the snap store has no channel {target.channel} of microk8s for this machine, only "
                f"{', '.join(state.store_channels)}; set tokenlabs_microk8s_channel to one of these",
            )
        return Action("install", "MicroK8s is not installed")
    if state.broken:
        return Action("fail", "the snap is disabled or broken; run 'snap enable microk8s', or remove it")
    if target.channel and state.channel != target.channel:
        return Action("fail", _other_channel(state.channel, target.channel))
    if state.stopped:
        return Action("start", "MicroK8s is stopped")
    if target.role == "controller":
        return _decide_chosen(state, node) if target.chosen else _decide_controller(state, node, target)
    if state.role == "controlplane" and (state.member or target.in_datastore):
        return Action(
            "fail",
            "the cluster has it as a controller but it shall be a worker; remove it with the playbook "
            "tokenlabs.platform.remove_node, then run again",
        )
    if state.half_joined:
        return Action("repair", "an earlier join broke off half-way")
    if state.role == "worker":
        return _watch(node) if state.member else _decide_foreign(state, target)
    return _decide_standalone(state, node, target)


def _other_channel(installed: str, wanted: str) -> str:
    text = f"MicroK8s follows {installed}, not {wanted}, and this playbook refreshes no running node: "
    keep = f"or set tokenlabs_microk8s_channel to {installed}"
    old, new = parse_minor(installed), parse_minor(wanted)
    if old is None or new is None or old == new or old + 1 == new:
        return f"{text}run the playbook tokenlabs.platform.upgrade, {keep}"
    if new < old:
        return f"{text}Kubernetes cannot be downgraded; set tokenlabs_microk8s_channel to {installed}"
    return (
        f"{text}Kubernetes is upgraded one minor version at a time; run the playbook tokenlabs.platform.upgrade with "
        f"tokenlabs_microk8s_channel set to 1.{old + 1}/stable first, {keep}"
    )


def _decide_chosen(state: State, node: Mapping[str, Any] | None) -> Action:
    if state.role == "worker":
        return Action(
            "fail",
            "this controller is a worker of some cluster; run 'microk8s leave' on it and remove its Node there",
        )
    if state.half_joined:
        return Action(
            "fail",
            "a join to a cluster broke off on this controller, and no other controller is there to join; run "
            "'microk8s leave' on it, or reinstall MicroK8s",
        )
    return _finish_or_watch(state, node)


def _decide_controller(state: State, node: Mapping[str, Any] | None, target: Target) -> Action:
    if state.role == "worker" and not state.half_joined:
        if state.member:
            return Action(
                "fail",
                "it is a worker of this cluster but shall be a controller; remove it with the playbook "
                "tokenlabs.platform.remove_node, then run again",
            )
        return _decide_foreign(state, target)
    if state.half_joined:
        return _unless_in_use(state, target) or Action("repair", "an earlier join broke off half-way")
    if state.member and target.in_datastore:
        return _finish_or_watch(state, node)
    if state.member:
        if target.force:
            return Action("repair", "the cluster has removed it and it may be set up anew")
        return Action(
            "fail",
            "the cluster has removed it, but it still holds a copy of the cluster's data; set microk8s_force_rejoin "
            "to install MicroK8s anew on it",
        )
    return _decide_standalone(state, node, target)


def _finish_or_watch(state: State, node: Mapping[str, Any] | None) -> Action:
    if state.join_in_progress:
        return Action("finish", "its join was cut off after it had become a member")
    return _watch(node)


def _watch(node: Mapping[str, Any] | None) -> Action:
    if node is None:
        return Action("none", "the node is set up; its Node was not looked at")
    if not node:
        return Action("restart", "its Node is missing; a restarted kubelet registers again")
    if not node.get("ready"):
        return Action("wait", f"its Node is not Ready: {node.get('message', 'no reason given')}")
    return Action("none", "the node is a Ready member")


def _decide_foreign(state: State, target: Target) -> Action:
    """A worker of some cluster, but not of ours."""
    if target.force:
        return Action("rejoin", "it is a worker of another cluster and may be taken over")
    if state.member is None:
        return Action("fail", "it is a worker, but the controller has no cluster yet; run 'microk8s leave' on it first")
    return Action(
        "fail",
        "it is a worker of another cluster; run 'microk8s leave' on it, or set microk8s_force_rejoin to take it over",
    )


def _unless_in_use(state: State, target: Target) -> Action | None:
    if target.force or not state.user_namespaces:
        return None
    return Action(
        "fail",
        f"pods of its own run on it (namespaces {', '.join(state.user_namespaces)}) and joining would orphan "
        "them; remove them, or set microk8s_force_rejoin",
    )


def _decide_standalone(state: State, node: Mapping[str, Any] | None, target: Target) -> Action:
    if not target.force and state.has_peers:
        return Action("fail", "other nodes have joined it; dissolve that cluster, or set microk8s_force_rejoin")
    if refusal := _unless_in_use(state, target):
        return refusal
    if node and node.get("ready"):
        return Action(
            "fail",
            "the controller has a Ready Node of this name, but this host is not a member; another machine has the same "
            "host name, or this one left less than a minute ago",
        )
    if len(state.datastore) > 1:
        return Action("rejoin", "it is a controller of another cluster and may be taken over")
    if node or target.in_datastore:
        return Action("replace", "the cluster still knows an earlier installation of this host")
    return Action("join", "it is not a member yet")


def remarks(found: Mapping[str, Mapping[str, Any]], now: datetime | None = None) -> list[str]:
    """What a person should know of nodes that are as they shall be, one line each.

    :param found: host names with what the module returned for O(gather=[state]).
    """
    now = now or datetime.now(UTC)
    lines = []
    versions: dict[str, list[str]] = {}
    for name, state in found.items():
        if state["installed"]:
            versions.setdefault(state["version"], []).append(name)
        if state["refreshes"]:
            lines.append(f"{name}: MicroK8s has refreshed itself, and is held from now on: {state['refreshes'][-1]}")
        for file, end in state["certificates"].items():
            left = (datetime.fromisoformat(end) - now).days
            if left < WARN_DAYS:
                lines.append(f"{name}: the certificate {file} ends in {left} days; look at 'microk8s refresh-certs'")
        if state["role"] == "controlplane":
            taken = [alias for alias, program in state["aliases"].items() if program not in ("", f"microk8s.{alias}")]
            lines += [f"{name}: {alias} is another snap's command, so it is no alias" for alias in taken]
    if len(versions) > 1:
        parts = [f"{version} on {', '.join(names)}" for version, names in sorted(versions.items())]
        lines.append(f"versions of MicroK8s differ: {'; '.join(parts)}; run the playbook tokenlabs.platform.upgrade")
    return lines


def describe(state: State) -> dict[str, Any]:
    """The state as plain data for a module's result."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(state)))
    return plain
