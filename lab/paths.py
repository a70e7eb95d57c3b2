# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things are, and what one lab consists of. Nothing here touches the machine."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

REPO = Path(__file__).resolve().parent.parent

NETWORK = ipaddress.ip_network("10.77.0.0/16")
OUTSIDE = "10.77.255.254"  # the lab's side of the bridge: everything that is "the internet" to a host
HOSTS_SIDE = "10.77.255.253"  # where hosts find the API server: with a certificate of their cluster's authority
API_PORT = 6443
API_URL = f"https://{OUTSIDE}:{API_PORT}"
REGISTRY_PORT = 5000
MIRROR_PORT = 80
SERVICE_CIDR = "10.152.183.0/24"
POD_CIDR = "10.1.0.0/16"
PLAYED_POD_CIDR = "10.1.0.0/17"  # KWOK's pods; the upper half belongs to pods that really run
FIRST_HOST = 10
MAX_HOSTS = 180  # 10.77.0.200 and up are load balancer addresses

DEFAULT_HOSTS = ("controller", "spark-01", "spark-02")
NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


class LabError(Exception):
    """Something the user can understand and act on; printed as one line."""


def cache_root() -> Path:
    return Path(os.environ.get("TOKENLABS_CACHE") or Path.home() / ".cache" / "tokenlabs").expanduser().resolve()


def state_root() -> Path:
    return Path(os.environ.get("TOKENLABS_LAB_STATE") or "/var/tmp/tokenlabs-lab").expanduser().resolve()


def digest(*parts: bytes | str) -> str:
    """A short name for exactly these inputs."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big") + raw)
    return total.hexdigest()[:16]


@dataclass(frozen=True)
class Host:
    """One simulated machine."""

    name: str
    address: str
    kind: Literal["controller", "spark"]
    index: int

    @property
    def link(self) -> str:
        """The bridge's end of the host's cable."""
        return f"h{self.index}"


def plan_hosts(names: Iterable[str]) -> list[Host]:
    """Give every name an address: the first ``controller*`` ones are controllers, the rest Sparks."""
    ordered = list(names)
    if not ordered:
        raise LabError("a lab needs at least one host")
    for name in ordered:
        if not NAME.fullmatch(name):
            raise LabError(f"host name {name!r}: use lower-case letters, digits and dashes, and start with a letter")
    twice = sorted({name for name in ordered if ordered.count(name) > 1})
    if twice:
        raise LabError(f"host named twice: {', '.join(twice)}")
    if len(ordered) > MAX_HOSTS:
        raise LabError(f"{len(ordered)} hosts asked for; the lab's network holds {MAX_HOSTS}")
    base = NETWORK.network_address
    return [
        Host(name, str(base + FIRST_HOST + index), "controller" if name.startswith("controller") else "spark", index)
        for index, name in enumerate(ordered)
    ]


@dataclass
class Lab:
    """A lab by name: its hosts, what it was made from, and where its files are."""

    name: str
    state: Path
    hosts: list[Host] = field(default_factory=list)
    rootfs: str = ""
    bin: str = ""
    downloads: str = ""
    wheels: str = ""
    stages: str = ""
    upstream: str = ""
    layers: dict[str, list[str]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)  # components that are left out

    @classmethod
    def named(cls, name: str) -> Lab:
        """The lab of this name, as it was written down when it was started (or an empty one)."""
        if not NAME.fullmatch(name):
            raise LabError(f"lab name {name!r}: use lower-case letters, digits and dashes, and start with a letter")
        state = state_root() / name
        try:
            return cls.load(state)
        except FileNotFoundError:
            return cls(name, state)

    @classmethod
    def load(cls, state: Path) -> Lab:
        raw = json.loads((state / "lab.json").read_text())
        raw["state"] = state
        raw["hosts"] = [Host(**host) for host in raw["hosts"]]
        return cls(**raw)

    def save(self) -> None:
        raw = asdict(self) | {"state": str(self.state)}
        partial = self.state / "lab.json.new"
        partial.write_text(json.dumps(raw, indent=1) + "\n")
        partial.replace(self.state / "lab.json")

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"no host {name!r} in this lab; it has {', '.join(host.name for host in self.hosts)}")

    def host_dir(self, name: str) -> Path:
        return self.state / "hosts" / name

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def socket(self) -> Path:
        return self.state / "ctl.sock"

    @property
    def cgroup(self) -> str:
        """Name of the lab's cgroup; labs of one name in different state roots must not meet."""
        return f"tokenlabs-{self.name}-{digest(str(self.state))[:6]}"

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """``base`` as a program inside the lab should see it."""
        env = {key: value for key, value in base.items() if key not in ("LAB_UPSTREAM", "KUBECONFIG")}
        env["TOKENLABS_LAB"] = str(self.state)
        env["TOKENLABS_LAB_NAME"] = self.name
        env["TOKENLABS_LAB_STATE"] = str(self.state.parent)
        env["TOKENLABS_CACHE"] = str(cache_root())
        env["KUBECONFIG"] = str(self.kubeconfig)
        env["PATH"] = f"{self.bin}:{base.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        if self.upstream:
            env["LAB_UPSTREAM"] = self.upstream
        return env
