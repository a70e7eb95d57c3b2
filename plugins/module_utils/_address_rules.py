# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of addresses: of hosts, of the gateway, and of MetalLB's range. Pure. Private to the collection."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Collector, Host, Inventory
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import UNREADABLE, Path, Report, quoted
from ansible_collections.tokenlabs.platform.plugins.module_utils._variables import HOST_PORTS, NETWORKS


def ipv4(value: Any) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def check_addresses(inventory: Inventory, collector: Collector, range_is_text: bool) -> None:
    owners: dict[ipaddress.IPv4Address, str] = {}
    if not inventory.existing:
        for host in inventory.hosts:
            _address(host, owners, collector.at(host.name))
        _logins(inventory, collector)
        _networks(inventory, owners, collector)
    report = collector.at(None)
    ranges: list[tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]] = []
    if range_is_text:
        ranges = _ranges(inventory.shared["tokenlabs_loadbalancer_range"], report)
        for address, name in owners.items():
            if any(low <= address <= high for low, high in ranges):
                report(
                    ("tokenlabs_loadbalancer_range",),
                    f"contains {address}, the address of {name}",
                    "choose addresses that no host has and that DHCP does not give away",
                )
        for purpose, network in _networks_of_microk8s():
            if any(low <= network[-1] and high >= network[0] for low, high in ranges):
                reason = f"meets {network}, which MicroK8s gives to {purpose}"
                report(("tokenlabs_loadbalancer_range",), reason, "choose addresses in the hosts' network")
    gateway = inventory.shared.get("tokenlabs_gateway")
    wanted = gateway.get("address") if isinstance(gateway, Mapping) else None
    if isinstance(wanted, str) and wanted.strip():
        chosen = ipv4(wanted)
        path: Path = ("tokenlabs_gateway", "address")
        if chosen is None:
            report(
                path, f"is {quoted(wanted)}, not an IPv4 address", "write one such as 192.168.1.240, or leave it out"
            )
        elif ranges and not any(low <= chosen <= high for low, high in ranges):
            report(path, f"is {wanted}, outside tokenlabs_loadbalancer_range", "choose one within it")
        elif inventory.existing:
            pass
        elif not inventory.shared.get("tokenlabs_loadbalancer_range") and chosen not in owners:
            reason = f"is {wanted}, which is no host's, and no tokenlabs_loadbalancer_range has it"
            report(path, reason, "choose a host's, set the range, or leave it out for the controllers' own")
    if not inventory.existing:
        _host_ports(inventory, report)


def _host_ports(inventory: Inventory, report: Report) -> None:
    """On a host's own address the gateway takes its port from whoever else listens there."""
    gateway = inventory.shared.get("tokenlabs_gateway")
    logins = {str(host.vars.get("ansible_port") or 22): "sshd" for host in inventory.hosts}
    for name in ("http_port", "https_port"):
        port = gateway.get(name) if isinstance(gateway, Mapping) else None
        holder = {**logins, **{str(number): who for number, who in HOST_PORTS.items()}}.get(str(port))
        if holder and not inventory.shared.get("tokenlabs_loadbalancer_range"):
            reason = (
                f"is {port}, which {holder} has on the hosts, and without tokenlabs_loadbalancer_range it is theirs"
            )
            report(("tokenlabs_gateway", name), reason, "choose another port, or set the range")


def _logins(inventory: Inventory, collector: Collector) -> None:
    """Hosts with cluster addresses of their own, but with one address to log in: one machine would be set up as two."""
    first: dict[tuple[str, str], Host] = {}
    for host in inventory.hosts:
        login = (str(host.vars.get("ansible_host")), str(host.vars.get("ansible_port") or 22))
        other = first.setdefault(login, host)
        if host.vars.get("ansible_host") and other is not host and other.address != host.address:
            reason = f"is {login[0]}, where Ansible logs in to {other.name} too"
            collector.at(host.name)(("ansible_host",), reason, "give every host its own")


def _networks_of_microk8s() -> list[tuple[str, ipaddress.IPv4Network]]:
    return [(purpose, ipaddress.IPv4Network(network)) for purpose, network in NETWORKS.items()]


def _networks(inventory: Inventory, owners: Mapping[ipaddress.IPv4Address, str], collector: Collector) -> None:
    """Hosts in a network of MicroK8s' own: told once for each network, at the first host of it."""
    by_name = {host.name: host for host in inventory.hosts}
    for purpose, network in _networks_of_microk8s():
        inside = [(address, by_name[name]) for address, name in owners.items() if address in network]
        if inside:
            address, host = inside[0]
            more = f", and so are {len(inside) - 1} more hosts" if len(inside) > 1 else ""
            collector.at(host.name)(
                _address_path(host),
                f"is {address}, within {network}, which MicroK8s gives to {purpose}{more}",
                "give the hosts' traffic another network (tokenlabs_cluster_address)",
            )


def _address_path(host: Host) -> Path:
    """The variable that says a host's address, if there is one."""
    return next(((name,) for name in ("tokenlabs_cluster_address", "ansible_host") if host.vars.get(name)), ())


def _address(host: Host, owners: dict[ipaddress.IPv4Address, str], report: Report) -> None:
    given = host.address
    if given is UNREADABLE or not isinstance(given, str):
        return
    path = _address_path(host)
    address = ipv4(given)
    if address is None:
        if re.fullmatch(r"<.*>", given):
            report(path, "is still the placeholder of an example", "write the IPv4 address of the host")
        elif path == ("tokenlabs_cluster_address",):
            report(path, f"is {quoted(given)}, not an IPv4 address", "write one such as 192.168.1.11")
        else:
            report(
                path,
                f"{quoted(given)} is a name, and MicroK8s joins by IPv4 address only",
                "set tokenlabs_cluster_address (or ansible_host) to the IPv4 address of the host",
            )
    elif address.is_loopback or address.is_unspecified or address.is_multicast:
        report(path, f"is {given}, which other hosts cannot reach", "write the address in the hosts' network")
    elif address in owners:
        report(path, f"is {given}, the address of {owners[address]} too", "give every host its own")
    else:
        owners[address] = host.name


def _ranges(text: str, report: Report) -> list[tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]]:
    path: Path = ("tokenlabs_loadbalancer_range",)
    ranges = []
    for part in text.split(","):
        first, separator, last = part.strip().partition("-")
        low, high = ipv4(first.strip()), ipv4(last.strip())
        if not separator or low is None or high is None:
            report(path, f"is {quoted(text)}, not a range", "write FIRST-LAST, such as 192.168.1.240-192.168.1.250")
            return []
        if low > high:
            report(path, f"ends before it begins ({part.strip()})", f"write {high}-{low}")
            return []
        ranges.append((low, high))
    ranges.sort()
    if any(after[0] <= before[1] for before, after in itertools.pairwise(ranges)):
        report(path, "names addresses twice", "write ranges that do not overlap")
    return ranges
