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
import re
import socket
import ssl
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Run = Callable[[Sequence[str]], tuple[int, str, str]]

MICROK8S = "/snap/bin/microk8s"
CURRENT = "var/snap/microk8s/current"
COMMON = "var/snap/microk8s/common"
APPARMOR_RULE = "etc/apparmor.d/abstractions/base.d/50-microk8s-runc"
# Restarting a unit makes its file effective; a file younger than the unit's process is not yet in force.
SERVICE_FILES = {"kubelite": "args/kubelet", "containerd": "args/containerd-template.toml"}
# On a Node: the keys of the taints that are ours, so that the lifecycle controller's are left alone.
TAINTS_ANNOTATION = "tokenlabs.io/taints"
SPARK_LABEL = "tokenlabs.io/spark"
# On a Node that a playbook has cordoned: what for. One manager owns both, so that a cordon of others is left alone.
MAINTENANCE_ANNOTATION = "tokenlabs.io/maintenance"
# Names the device plugin's configuration for a node; the role gpu_operator writes one for each number of slots.
SLOTS_LABEL = "nvidia.com/device-plugin.config"
CRI_PLUGINS = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")
BLOCK = re.compile(r"^# BEGIN TOKENLABS$(.*?)^# END TOKENLABS$", re.MULTILINE | re.DOTALL)


class MicroK8sError(Exception):
    """The state of the node could not be read."""


@dataclass(frozen=True)
class Snap:
    """One line of ``snap list``."""

    version: str = ""
    revision: str = ""
    channel: str = ""
    notes: tuple[str, ...] = ()


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
    user_namespaces: tuple[str, ...] = ()
    ca_fingerprint: str | None = None
    remote_ca_fingerprint: str | None = None
    args: dict[str, dict[str, str]] = field(default_factory=lambda: {"kubelet": {}, "kube-apiserver": {}})
    managed_args: dict[str, str] = field(default_factory=dict)
    cri_plugin: str | None = None
    runtime_handlers: dict[str, str] = field(default_factory=dict)
    template_imports: tuple[str, ...] = ()
    template_error: str | None = None
    pending_restart: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    apparmor_rule: bool = False


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


def parse_aliases(text: str) -> tuple[str, ...]:
    """The alias column of the ``snap aliases`` table."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return tuple(sorted(row[1] for row in rows if len(row) >= 2))


def parse_args(text: str) -> dict[str, str]:
    """The flags of an argument file; as for the component itself, the last one of a name counts."""
    flags: dict[str, str] = {}
    for raw in text.splitlines():
        line = raw.strip().replace('"', "").replace("'", "")
        if not line.startswith("-"):
            continue
        name, separator, value = line.partition("=")
        if not separator:
            name, _blank, value = line.partition(" ")
        flags[name.strip()] = value.strip()
    return flags


def parse_managed_args(text: str) -> dict[str, str]:
    """The flags that stand between our markers."""
    match = BLOCK.search(text)
    return parse_args(match.group(1)) if match else {}


def parse_template(text: str) -> tuple[str | None, dict[str, str], tuple[str, ...], str | None]:
    """Containerd's template: (CRI plugin, runtime handler -> program, imported files, error)."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return None, {}, (), str(error)
    imports = tuple(str(item) for item in document.get("imports", []))
    plugins = document.get("plugins", {})
    for plugin in CRI_PLUGINS:
        runtimes = plugins.get(plugin, {}).get("containerd", {}).get("runtimes")
        if runtimes is not None:
            handlers = {name: str(spec.get("options", {}).get("BinaryName", "")) for name, spec in runtimes.items()}
            return plugin, handlers, imports, None
    return None, {}, imports, None


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


def parse_members(text: str) -> tuple[str, ...]:
    """The addresses in the datastore's cluster.yaml."""
    return tuple(re.findall(r"^[\s-]*Address:\s*(\S+)", text, re.MULTILINE))


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
    managed = node["metadata"].get("annotations", {}).get(TAINTS_ANNOTATION)
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
        "managed_taints": [key for key in managed.split(",") if key] if managed is not None else None,
    }


def certificate_fingerprint(pem: str) -> str | None:
    """SHA-256 of the first certificate, so that white space around it does not matter."""
    match = re.search(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", pem, re.DOTALL)
    if not match:
        return None
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(match.group(0))).hexdigest()


# --- reading a host ---


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise MicroK8sError(f"{path}: {error.strerror}; read the state as root") from error


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


def read_state(run: Run, expected_ca: str | None = None, root: Path = Path("/")) -> State:
    """Read one host. ``expected_ca`` is the fingerprint of the CA that a member of the cluster must trust."""
    node_name = socket.gethostname().lower()
    apparmor_rule = "peer=runc" in _text(root / APPARMOR_RULE)
    rc, out, err = run(["snap", "list", "microk8s"])
    snap = parse_snap_list(out)
    if snap is None:
        if rc != 0 and "no matching snaps installed" not in err and rc != 127:
            raise MicroK8sError(f"snap list microk8s failed: {err.strip() or out.strip()}")
        return State(node_name=node_name, snapd=rc != 127, apparmor_rule=apparmor_rule)

    current, common = root / CURRENT, root / COMMON
    lock = current / "var/lock"
    certs = current / "certs"
    clustered = (lock / "clustered.lock").exists()
    remote_ca = certificate_fingerprint(_text(certs / "ca.remote.crt"))
    own_ca = certificate_fingerprint(_text(certs / "ca.crt"))
    members = parse_members(_text(current / "var/kubernetes/backend/cluster.yaml"))
    in_progress = (lock / "join-in-progress").exists()
    fixed_certificate = (lock / "no-cert-reissue").exists()
    if clustered:
        member = None if expected_ca is None else remote_ca == expected_ca
    else:
        member = None if expected_ca is None else own_ca == expected_ca and len(members) > 1
    callbacks = _text(current / "credentials/callback-tokens.txt").strip()
    installed_lock = lock / "installed.lock"
    installed_at = installed_lock.stat().st_mtime if installed_lock.exists() else 0.0
    kubelet = _text(current / "args/kubelet")
    plugin, handlers, imports, template_error = parse_template(_text(current / SERVICE_FILES["containerd"]))
    _rc, aliases, _err = run(["snap", "aliases", "microk8s"])
    return State(
        node_name=node_name,
        installed=True,
        version=snap.version,
        revision=snap.revision,
        channel=snap.channel,
        held="held" in snap.notes,
        broken=bool({"broken", "disabled"} & set(snap.notes)),
        stopped=(lock / "stopped.lock").exists(),
        launch_done=not list((common / "etc/launcher").glob("*.yaml")),
        role="worker" if clustered else "controlplane",
        member=member,
        half_joined=in_progress or (remote_ca is not None) != clustered or (clustered and not fixed_certificate),
        join_in_progress=in_progress,
        join_running=in_progress and _join_running(root / "proc"),
        has_peers=not clustered and (len(members) > 1 or bool(callbacks)),
        user_namespaces=() if clustered else _user_namespaces(root, installed_at),
        ca_fingerprint=own_ca,
        remote_ca_fingerprint=remote_ca,
        args={"kubelet": parse_args(kubelet), "kube-apiserver": parse_args(_text(current / "args/kube-apiserver"))},
        managed_args=parse_managed_args(kubelet),
        cri_plugin=plugin,
        runtime_handlers=handlers,
        template_imports=imports,
        template_error=template_error,
        pending_restart=_pending_restart(current, run),
        aliases=parse_aliases(aliases),
        apparmor_rule=apparmor_rule,
    )


def read_cluster(state: State, run: Run, addons: bool = True) -> dict[str, Any]:
    """What the API of this control plane says. Everything is empty while it does not answer."""
    silent: dict[str, Any] = {"api": False, "running": False, "addons": {}, "nodes": {}}
    if not state.installed or state.stopped or state.role != "controlplane":
        return silent
    rc, out, _err = run([MICROK8S, "kubectl", "get", "nodes", "-o", "json", "--request-timeout=10s"])
    if rc != 0:
        return silent
    try:
        items = json.loads(out)["items"]
    except (ValueError, KeyError, TypeError):
        return silent
    answer = {**silent, "api": True, "nodes": {item["metadata"]["name"]: summarise_node(item) for item in items}}
    if addons:
        rc, out, _err = run([MICROK8S, "status", "--format", "short"])
        running, answer["addons"] = parse_status(out)
        answer["running"] = rc == 0 and running
    return answer


# --- deciding ---


def decide(state: State, node: Mapping[str, Any] | None, target_role: str = "worker", force: bool = False) -> Action:
    """The next step for one host.

    :param node: the host's Node as the controller sees it; empty when there is none, None when nobody looked.
    :param force: leave another cluster, or give up a control plane with data of its own.
    """
    if not state.snapd:
        return Action("fail", "snapd is not installed; install the package snapd first")
    if not state.installed:
        return Action("install", "MicroK8s is not installed")
    if state.broken:
        return Action("fail", "the snap is disabled or broken; run 'snap enable microk8s', or remove it")
    if state.stopped:
        return Action("start", "MicroK8s is stopped")
    if target_role == "controller":
        return _decide_controller(state, node)
    if state.half_joined:
        return Action("repair", "an earlier join broke off half-way")
    if state.role == "worker":
        return _decide_worker(state, node, force)
    return _decide_standalone(state, node, force)


def _decide_controller(state: State, node: Mapping[str, Any] | None) -> Action:
    if state.role == "worker":
        return Action(
            "fail",
            "this controller is a worker of some cluster; run 'microk8s leave' on it and remove its Node there",
        )
    if state.half_joined:
        return Action(
            "fail",
            "a join to a cluster broke off on this controller; run 'microk8s leave' on it, or reinstall MicroK8s",
        )
    return _watch(node)


def _watch(node: Mapping[str, Any] | None) -> Action:
    if node is None:
        return Action("none", "the node is set up; its Node was not looked at")
    if not node:
        return Action("restart", "its Node is missing; a restarted kubelet registers again")
    if not node.get("ready"):
        return Action("wait", f"its Node is not Ready: {node.get('message', 'no reason given')}")
    return Action("none", "the node is a Ready member")


def _decide_worker(state: State, node: Mapping[str, Any] | None, force: bool) -> Action:
    if state.member:
        return _watch(node)
    if force:
        return Action("rejoin", "it is a worker of another cluster and may be taken over")
    if state.member is None:
        return Action("fail", "it is a worker, but the controller has no cluster yet; run 'microk8s leave' on it first")
    return Action(
        "fail",
        "it is a worker of another cluster; run 'microk8s leave' on it, or set microk8s_force_rejoin to take it over",
    )


def _decide_standalone(state: State, node: Mapping[str, Any] | None, force: bool) -> Action:
    if state.member:
        return Action(
            "fail",
            "it is a control plane of this cluster but shall be a worker; drain it, run 'microk8s leave' on it and "
            "'microk8s remove-node' on the controller, then run again",
        )
    if not force and state.has_peers:
        return Action("fail", "other nodes have joined it; dissolve that cluster, or set microk8s_force_rejoin")
    if not force and state.user_namespaces:
        return Action(
            "fail",
            f"pods of its own run on it (namespaces {', '.join(state.user_namespaces)}) and joining would orphan "
            "them; remove them, or set microk8s_force_rejoin",
        )
    if node and node.get("ready"):
        return Action(
            "fail",
            "the controller has a Ready Node of this name, but this host is not a member; another machine has the same "
            "host name, or this one left less than a minute ago",
        )
    if node:
        return Action("replace", "the controller still has the Node of an earlier installation of this host")
    return Action("join", "it is not a member yet")


def describe(state: State) -> dict[str, Any]:
    """The state as plain data for a module's result."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(state).items()}


def node_objects(
    wanted: Mapping[str, Mapping[str, Any]], live: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The Nodes with our labels and taints, for server-side apply. A Node that is not there is left out.

    The list of taints belongs to one manager as a whole, so the taints of others are repeated as they are.
    """
    objects = []
    for name in sorted(set(wanted) & set(live)):
        labels = {SPARK_LABEL: "true"} if wanted[name].get("gpu") else {}
        if wanted[name].get("gpu_slots", 0) > 1:
            labels[SLOTS_LABEL] = f"slots-{wanted[name]['gpu_slots']}"
        labels |= {str(key): str(value) for key, value in wanted[name].get("labels", {}).items()}
        taints = [dict(taint) for taint in wanted[name].get("taints", [])]
        managed = live[name].get("managed_taints")
        ours = {taint["key"] for taint in taints} | set(managed or [])
        metadata: dict[str, Any] = {"name": name, "labels": labels}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        if ours or managed is not None:
            others = [taint for taint in live[name].get("taints", []) if taint["key"] not in ours]
            metadata["annotations"] = {TAINTS_ANNOTATION: ",".join(sorted({taint["key"] for taint in taints}))}
            node["spec"] = {"taints": others + taints}
        objects.append(node)
    return objects
