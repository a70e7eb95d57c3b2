# SPDX-License-Identifier: GPL-3.0-or-later
"""What the programs know of their host: paths, settings, names, addresses, faults.

Everything hangs off one root directory (``/``, or ``SNAPSIM_ROOT`` in tests), so that
several hosts can be played in temporary directories on one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

AGENT_PORT = 25000
API_PORT = 16443


def read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, PermissionError):
        return default


def write_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step, so that a kill never leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as out:
        out.write(text)
    new.chmod(mode)
    if path.exists() and os.geteuid() == 0:
        old = path.stat()
        os.chown(new, old.st_uid, old.st_gid)
    new.replace(path)


class Settings(NamedTuple):
    """/etc/snapsim.json: what is simulated differently from the defaults."""

    arch: str = ""  # what uname says; empty: the machine's own
    kernel: str = ""
    hostname: str = ""  # tests only; empty: the host's own name
    address: str = ""  # tests only; empty: the address of the default route
    addresses: tuple[str, ...] = ()  # tests only; empty: what `hostname -I` says
    api: str = ""  # tests only; empty: port 16443 of this host
    loopback: str = "127.0.0.1"  # tests only: where a worker's proxy listens
    services: str = "systemd"  # or "record": only note what would be done
    install_delay: float = 1.0
    launch_delay: float = 1.0
    ready_delay: float = 1.0
    rebind_delay: float = 2.0  # how long the API is away at the first join
    auto_refresh_time: float = 5.0
    role_delay: float = 3.0  # after which dqlite's leader gives out roles anew (the real one: 30 s)
    node: dict[str, str] = {}  # capacity: cpu, memory, ephemeral-storage


class Host:
    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root if root is not None else os.environ.get("SNAPSIM_ROOT", "/"))
        raw = read_json(self.path("etc/snapsim.json"), {})
        raw["addresses"] = tuple(raw.get("addresses", ()))
        self.settings = Settings(**{k: v for k, v in raw.items() if k in Settings._fields})

    # -- paths
    def path(self, relative: str) -> Path:
        return self.root / relative.lstrip("/")

    @property
    def state(self) -> Path:
        return self.path("var/lib/snapsim")

    @property
    def snap(self) -> Path:
        return self.path("snap/microk8s/current")

    @property
    def data(self) -> Path:
        return self.path("var/snap/microk8s/current")

    @property
    def common(self) -> Path:
        return self.path("var/snap/microk8s/common")

    @property
    def args(self) -> Path:
        return self.data / "args"

    @property
    def certs(self) -> Path:
        return self.data / "certs"

    @property
    def credentials(self) -> Path:
        return self.data / "credentials"

    @property
    def backend(self) -> Path:
        return self.data / "var/kubernetes/backend"

    def lock(self, name: str) -> Path:
        return self.data / "var/lock" / name

    def locked(self, name: str) -> bool:
        return self.lock(name).exists()

    @property
    def quorum_file(self) -> Path:
        """There while the datastore has its majority, as far as this host sees."""
        return self.path("run/snapsim-quorum")

    @property
    def runtime_file(self) -> Path:
        """What the container runtime found at its start; the kubelet reads it."""
        return self.common / "run/containerd.json"

    # -- identity
    @property
    def name(self) -> str:
        return self.settings.hostname or socket.gethostname()

    @property
    def node_name(self) -> str:
        return self.name.lower()

    @property
    def machine(self) -> str:
        return self.look_at_fault("machine") or self.settings.arch or os.uname().machine

    @property
    def kernel(self) -> str:
        return self.look_at_fault("kernel") or self.settings.kernel or os.uname().release

    @property
    def arch(self) -> str:
        return {"x86_64": "amd64", "aarch64": "arm64"}.get(self.machine, self.machine)

    @property
    def address(self) -> str:
        """The address of the default route, as MicroK8s' own get_default_ip."""
        if self.settings.address:
            return self.settings.address
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("10.254.254.254", 9))
                return str(probe.getsockname()[0])
            except OSError:
                return "127.0.0.1"

    @property
    def addresses(self) -> list[str]:
        if self.settings.addresses:
            return list(self.settings.addresses)
        if self.settings.address:
            return [self.settings.address]
        import subprocess  # not in the daemons' memory

        out = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout
        return out.split() or [self.address]

    # -- roles
    @property
    def is_worker(self) -> bool:
        return self.locked("clustered.lock")

    @property
    def is_stopped(self) -> bool:
        return self.locked("stopped.lock")

    @property
    def api_url(self) -> str:
        """The real API server behind this host's MicroK8s; empty on a host that has none of its own."""
        try:
            return (self.state / "api-url").read_text().strip()
        except FileNotFoundError:
            return ""

    def seeded_url(self) -> str:
        """The API server that the lab has given to this host, if it gave it the cluster's authority too."""
        seed = self.state / "seed"
        if not (seed / "ca.key").exists():
            return ""
        if (seed / "apiserver-url").exists():
            return (seed / "apiserver-url").read_text().strip()
        return str(read_json(seed / "lab.json", {}).get("api", ""))

    # -- faults and serialisation
    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        self.state.mkdir(parents=True, exist_ok=True)
        with open(self.state / f".{name}.lock", "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def set_fault(self, name: str, value: Any) -> Any:
        """Set (or with None take away) a fault; returns what it was."""
        path = self.state / "faults.json"
        with self.exclusive("faults"):
            faults = read_json(path, {})
            old = faults.pop(name, None)
            if value is not None:
                faults[name] = value
            if faults.get(name) != old:
                write_file(path, json.dumps(faults) + "\n")
        return old

    def take_fault(self, name: str) -> Any:
        """The value of a fault that acts once."""
        return self.set_fault(name, None)

    def look_at_fault(self, name: str) -> Any:
        """The value of a fault, which is not used up by that."""
        return read_json(self.state / "faults.json", {}).get(name)

    def fault(self, name: str) -> Any:
        """The value of a fault, or None. A number counts down with each use; true stays until it is removed."""
        path = self.state / "faults.json"
        if not path.exists():
            return None
        if not os.access(self.state, os.W_OK):
            return read_json(path, {}).get(name) or None
        with self.exclusive("faults"):
            faults = read_json(path, {})
            value = faults.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                if value <= 0:
                    return None
                faults[name] = value - 1
                write_file(path, json.dumps(faults) + "\n")
            return value or None
