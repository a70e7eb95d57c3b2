# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one host must be like, judged by what the probe of the role preflight has found on it.

This module is private to the collection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import State, Target, decide

GIB = 2**30
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# `uname -m` by the architecture's name in the world of containers.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
MIN_PYTHON = (3, 11)
MIN_INOTIFY = 32
# Networks between containers or virtual machines of one host, and what Calico makes.
INNER = re.compile(r"(docker|virbr|lxdbr|lxcbr|podman|cni|cali|veth|vxlan|flannel|kube-|tunl)|br-[0-9a-f]{12}$")
VPN = re.compile(r"tailscale|wg|tun|tap|zt|ppp|nebula")
VPN_KINDS = ("tun", "wireguard")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. Only a fatal one stops the run."""

    host: str
    check: str
    found: str
    remedy: str
    fatal: bool = True


@dataclass(frozen=True)
class Subject:
    """A host: what the catalog wants of it, what the probe has found, and what it is held against."""

    name: str
    node: Mapping[str, Any]
    probe: Mapping[str, Any]
    limits: Mapping[str, Any]

    @property
    def group(self) -> str:
        return "spark" if self.node["gpu"] else "controller"

    def finding(self, check: str, found: object, remedy: str, fatal: bool = True) -> Finding:
        return Finding(self.name, check, str(found), remedy, fatal)

    @property
    def interface(self) -> tuple[str, str, IPv4Network] | None:
        """Name, kind and network of the interface that has the cluster address."""
        for name, kind, address, prefix in self.probe["addresses"]:
            if address == self.node["address"]:
                return name, kind, IPv4Network(f"{address}/{prefix}", strict=False)
        return None


Rule = Callable[[Subject], Iterator[Finding]]


def version_key(version: str) -> tuple[int, ...]:
    """``6.14.0-1015-nvidia`` as ``(6, 14, 0)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match.group(0).split(".")) if match else ()


def gib(size: float) -> str:
    return f"{size / GIB:.0f} GiB"


def is_inner(interface: str) -> bool:
    return bool(INNER.match(interface))


def _system(host: Subject) -> Iterator[Finding]:
    probe, limits = host.probe, host.limits
    if not probe["root"]:
        yield host.finding("sudo", "the tasks do not run as root", "let become lead to root (become_user: root)")
    if probe["release"] not in limits["distributions"]:
        yield host.finding("system", probe["release"], "install " + " or ".join(limits["distributions"]))
    if host.node["gpu"] and not probe["dgx"]:
        remedy = "none needed if the maker's system has the driver and the container toolkit"
        yield host.finding("DGX OS", "no /etc/dgx-release", remedy, fatal=False)
    wanted = host.node.get("arch")
    if wanted and probe["machine"] != MACHINES[wanted]:
        found = next((arch for arch, machine in MACHINES.items() if machine == probe["machine"]), probe["machine"])
        remedy = f"set tokenlabs_arch: {found} in its host_vars if this is meant, or take it out of the inventory"
        yield host.finding("architecture", f"{probe['machine']} ({found}), expected {wanted}", remedy)
    if version_key(probe["kernel"]) < version_key(limits["min_kernel"]):
        yield host.finding("kernel", probe["kernel"], f"boot {limits['min_kernel']} or newer")
    if tuple(probe["python"]) < MIN_PYTHON:
        remedy = f"set ansible_python_interpreter to Python {'.'.join(map(str, MIN_PYTHON))} or newer"
        yield host.finding("python", ".".join(map(str, probe["python"])), remedy)
    if not probe["cgroup2"]:
        yield host.finding(
            "cgroups", "version 1", "boot with systemd.unified_cgroup_hierarchy=1; kubelets need version 2"
        )


def _name(host: Subject) -> Iterator[Finding]:
    """The kubelet registers with the host name in lower case."""
    told, name = host.probe["host_name"], host.node["name"]
    rename = f"sudo hostnamectl set-hostname {name}"
    if not all(NAME.fullmatch(label) for label in told.lower().split(".")):
        yield host.finding("host name", f"{told} cannot be the name of a node (RFC 1123)", rename)
    elif told != name:
        yield host.finding("host name", f"{told}, in the inventory {name}", f"{rename}, or rename it in the inventory")


def _size(host: Subject) -> Iterator[Finding]:
    probe, limits, group = host.probe, host.limits, host.group
    if probe["cores"] < limits["min_cores"][group]:
        yield host.finding("cores", probe["cores"], f"give it {limits['min_cores'][group]} or more")
    if probe["memory"] < limits["min_memory_gib"][group] * GIB:
        yield host.finding("memory", gib(probe["memory"]), f"give it {limits['min_memory_gib'][group]} GiB or more")
    for path, space in probe["spaces"].items():
        check = f"disk of {path}"
        weights = host.node["cache_gib"] if path == limits["model_cache"] else 0
        least = max(limits["min_disk_gib"][group], weights)
        if space["total"] < least * GIB:
            remedy = f"put it on a file system of {least} GiB or more"
            remedy += f": the models of this Spark say that they take {weights}" if least == weights else ""
            yield host.finding(check, gib(space["total"]), remedy)
        elif space["free"] < limits["min_free_gib"] * GIB:
            yield host.finding(check, f"{gib(space['free'])} free", f"free {limits['min_free_gib']} GiB")
    if probe["swap"]:
        remedy = "none needed: the run turns it off, unless microk8s_swap_off is false"
        yield host.finding("swap", gib(probe["swap"]), remedy, fatal=False)
    if probe["inotify"]["free"] < MIN_INOTIFY:
        found = f"{probe['inotify']['free']} instances left for root"
        yield host.finding("inotify", found, "raise fs.inotify.max_user_instances with sysctl", fatal=False)


def _gpu(host: Subject) -> Iterator[Finding]:
    if not host.node["gpu"]:
        return
    gpu, wanted = host.probe["gpu"], host.limits["min_driver"]
    if gpu["error"]:
        yield host.finding("GPU driver", gpu["error"], f"install NVIDIA's driver {wanted} or newer; DGX OS brings it")
    elif version_key(gpu["driver"]) < version_key(wanted):
        yield host.finding("GPU driver", gpu["driver"], f"update to {wanted} or newer")
    if host.limits["toolkit"] == "host" and not host.probe["runtime"]:
        yield host.finding("GPU runtime", "missing", "install the package nvidia-container-toolkit")


def _snap(host: Subject) -> Iterator[Finding]:
    """Asked of hosts only on which MicroK8s is still to be installed."""
    store, channel = host.probe["store"], host.limits["channel"]
    if not host.probe["snapd"]:
        yield host.finding("snapd", "missing", "install the package snapd")
    elif store and store["error"]:
        remedy = "let it reach the snap store, or name a proxy with 'snap set system proxy.https=URL'"
        yield host.finding("snap store", store["error"], remedy)
    elif store and channel not in store["channels"]:
        tracks = [each for each in store["channels"] if re.fullmatch(r"1\.\d+/\w+", each)]
        same_risk = [each for each in tracks if each.partition("/")[2] == channel.partition("/")[2]]
        remedy = f"set tokenlabs_microk8s_channel to one of {', '.join((same_risk or tracks)[:5])}"
        yield host.finding("channel", f"the snap store has no {channel} of microk8s", remedy)


def _mirrors(host: Subject) -> Iterator[Finding]:
    """What is installed needs no download any more, so a mirror that is down must not stop a later run."""
    for name, port, reason in host.probe["mirrors"]:
        remedy = f"start that mirror, let the host reach it, or correct tokenlabs_mirrors.{name}"
        fatal = host.probe["cluster"] is None
        yield host.finding("mirror", f"{name} on port {port}: {reason}", remedy, fatal)


def _address(host: Subject) -> Iterator[Finding]:
    """The address by which the others join must be one of the host's own, in a network that the others share."""
    if host.interface is None:
        own = [f"{its[2]} on {its[0]}" for its in host.probe["addresses"] if its[0] != "lo" and not is_inner(its[0])]
        found = f"{host.node['address']} is none of its own ({', '.join(own) or 'it has none'})"
        yield host.finding("address", found, "correct ansible_host or tokenlabs_cluster_address")
        return
    name, kind, network = host.interface
    if is_inner(name):
        remedy = "set tokenlabs_cluster_address to its address in the hosts' network"
        yield host.finding("address", f"{host.node['address']} is on {name}, which no other host reaches", remedy)
        return
    if kind in VPN_KINDS or VPN.match(name):
        remedy = "set tokenlabs_cluster_address to its address in the LAN: pods' traffic would all take the VPN"
        yield host.finding("address", f"{host.node['address']} is on {name}, a VPN", remedy, fatal=False)
    yield from _overlaps(host, name, network)


def _overlaps(host: Subject, interface: str, lan: IPv4Network) -> Iterator[Finding]:
    """Pods' and services' networks must not be anywhere else, or one of the two cannot be reached."""
    networks = {(f"{address}/{prefix}", device) for device, _kind, address, prefix in host.probe["addresses"]}
    networks |= set(map(tuple, host.probe["routes"]))
    for purpose in ("pods", "services"):
        inner = IPv4Network(host.limits["networks"][purpose])
        meets = sorted(
            {
                (str(other), device)
                for text, device in networks
                if device != "lo" and not is_inner(device) and inner.overlaps(other := IPv4Network(text, strict=False))
            }
        )
        if inner.overlaps(lan):
            remedy = "give the hosts' traffic another network (tokenlabs_cluster_address)"
            yield host.finding(
                "networks", f"{inner}, of MicroK8s' {purpose}, meets the LAN {lan} on {interface}", remedy
            )
        elif meets:
            found = f"{inner}, of MicroK8s' {purpose}, meets {', '.join(f'{net} on {dev}' for net, dev in meets)}"
            remedy = "what is there cannot be reached from pods; change that route if it has to be"
            yield host.finding("networks", found, remedy, fatal=False)


def _ports(host: Subject) -> Iterator[Finding]:
    for port, holder in host.probe["ports"].items():
        if holder != "microk8s":
            yield host.finding(f"port {port}", f"taken by {holder}", f"stop {holder}, or let it use another port")


def _membership(host: Subject) -> Iterator[Finding]:
    """Whether the host can be what it shall be in this cluster: the same decision as that of the role microk8s."""
    found, seed = host.probe["cluster"], host.limits["seed"]
    if found is None or seed is None:
        return
    state = State(
        node_name=host.node["name"],
        installed=True,
        channel=found["channel"],
        role="worker" if found["worker"] else "controlplane",
        has_peers=found["joined"],
        member=found["remote_ca" if found["worker"] else "ca"] == seed["ca"] if seed["ca"] else None,
    )
    target = Target(
        role=host.node["role"],
        channel=host.limits["channel"],
        chosen=host.name == seed["name"],
        address=host.node["address"],
        datastore=tuple(seed["datastore"]),
        force=host.limits["force_rejoin"],
    )
    action = decide(state, None, target)
    if action.kind == "fail":
        reason, remedy = [*re.split("; |: ", action.reason, maxsplit=1), ""][:2]
        yield host.finding("cluster", reason, remedy)


RULES: tuple[Rule, ...] = (_system, _name, _size, _gpu, _snap, _mirrors, _address, _ports, _membership)


def judge(host: Subject) -> Iterator[Finding]:
    """Everything about one host that its own probe tells."""
    for rule in RULES:
        yield from rule(host)
