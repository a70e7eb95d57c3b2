# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd units that a MicroK8s installation brings, and the way to start and stop them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .host import API_PORT, Host, read_json, write_file

PROGRAM = "/usr/lib/snapsim/bin"
LOCKS = "/var/snap/microk8s/current/var/lock"
# In the order of `snap services`.
DAEMONS = (
    "daemon-apiserver-kicker",
    "daemon-apiserver-proxy",
    "daemon-cluster-agent",
    "daemon-containerd",
    "daemon-etcd",
    "daemon-flanneld",
    "daemon-k8s-dqlite",
    "daemon-kubelite",
)
_IDLE = "/bin/sleep infinity"

API_PORT_UNIT = "snap.microk8s.apiserver.service"
QUORUM = "/run/snapsim-quorum"


def unit_of(daemon: str) -> str:
    return f"snap.microk8s.{daemon.removeprefix('microk8s.')}.service"


def _service(daemon: str, command: str, *more: str, unit: Iterable[str] = (), restart: str = "always") -> str:
    head = [f"Description=Service for snap application microk8s.{daemon}", "After=network.target", *unit]
    body = [
        "Type=simple",
        f"ExecStart={command}",
        f"Restart={restart}",
        "RestartSec=2",
        "TimeoutStopSec=10",
        "SyslogIdentifier=microk8s." + daemon,
        *more,
    ]
    return "\n".join(
        [
            "[Unit]",
            *head,
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            *body,
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def _without(lock: str) -> str:
    return f"ConditionPathExists=!{LOCKS}/{lock}"


def units(api_url: str) -> dict[str, str]:
    """Every unit file by name. `api_url` is the API server which this host's MicroK8s is the face of, if any."""
    made = {
        "daemon-apiserver-kicker": _service("daemon-apiserver-kicker", _IDLE, unit=[_without("clustered.lock")]),
        "daemon-apiserver-proxy": _service(
            "daemon-apiserver-proxy", f"{PROGRAM}/apiserver-proxy", unit=[_without("no-apiserver-proxy")]
        ),
        "daemon-cluster-agent": _service("daemon-cluster-agent", f"{PROGRAM}/cluster-agent"),
        "daemon-containerd": _service(
            "daemon-containerd", f"{PROGRAM}/containerd", f"ExecStopPost={PROGRAM}/containerd --stopped"
        ),
        "daemon-etcd": _service("daemon-etcd", _IDLE, unit=[_without("no-etcd")]),
        "daemon-flanneld": _service("daemon-flanneld", _IDLE, unit=[_without("no-flanneld")]),
        "daemon-k8s-dqlite": _service(
            "daemon-k8s-dqlite",
            f"{PROGRAM}/k8s-dqlite",
            f"ExecStopPost={PROGRAM}/k8s-dqlite --stopped",
            unit=[_without("no-k8s-dqlite")],
        ),
        "daemon-kubelite": _service(
            "daemon-kubelite",
            f"{PROGRAM}/kubelite",
            unit=["After=snap.microk8s.daemon-containerd.service", f"Wants={API_PORT_UNIT}"]
            if api_url
            else ["After=snap.microk8s.daemon-containerd.service"],
        ),
    }
    files = {unit_of(name): text for name, text in made.items()}
    if api_url:
        kubelite = unit_of("daemon-kubelite")
        files[API_PORT_UNIT] = (
            f"[Unit]\nDescription=MicroK8s API server port\nBindsTo={kubelite}\nAfter={kubelite}\n"
            f"{_without('clustered.lock')}\nConditionPathExists={QUORUM}\nStartLimitIntervalSec=0\n\n"
            # In reality kubelite listens itself: the control group of the port is MicroK8s.
            f"[Service]\nSlice=snap.microk8s.slice\nExecStart={PROGRAM}/api-port\nRestart=on-failure\nRestartSec=1\n"
        )
    return files


class Services:
    """systemd, or only a record of what would be done (hosts played in a directory)."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.real = host.settings.services == "systemd"
        self.directory = host.path("etc/systemd/system")
        self.wants = self.directory / "multi-user.target.wants"

    def _systemctl(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["systemctl", *args], capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"systemctl {' '.join(args)}: {done.stderr.strip()}")
        return done

    # -- the record of hosts without systemd
    @property
    def _record(self) -> Path:
        return self.host.state / "services.json"

    def _note(self, verb: str, names: Iterable[str]) -> None:
        state = read_json(self._record, {})
        with open(self.host.state / "services.log", "a") as log:
            for name in names:
                log.write(f"snapctl {verb} microk8s.{name}\n")
                state[name] = verb != "stop"
        write_file(self._record, json.dumps(state) + "\n")

    def calls(self) -> list[str]:
        try:
            return (self.host.state / "services.log").read_text().splitlines()
        except FileNotFoundError:
            return []

    # -- life of an installation
    def install(self) -> None:
        self.wants.mkdir(parents=True, exist_ok=True)
        wanted = units(self.host.api_url)
        for name, text in wanted.items():
            write_file(self.directory / name, text)
        if API_PORT_UNIT not in wanted:
            (self.directory / API_PORT_UNIT).unlink(missing_ok=True)
        for daemon in DAEMONS:
            self._enable(daemon)
        if self.real:
            self._systemctl("daemon-reload")

    def remove(self) -> None:
        self.stop(DAEMONS, disable=True)
        for name in units("https://any"):
            (self.directory / name).unlink(missing_ok=True)
        if self.real:
            self._systemctl("daemon-reload")
            self._systemctl("reset-failed", check=False)

    def _enable(self, daemon: str, on: bool = True) -> None:
        link = self.wants / unit_of(daemon)
        link.unlink(missing_ok=True)
        if on:
            link.symlink_to(f"../{unit_of(daemon)}")

    # -- what snap start, stop and restart do
    def start(self, daemons: Iterable[str] = DAEMONS, enable: bool = False) -> None:
        names = list(daemons)
        if enable:
            for name in names:
                self._enable(name)
        if self.real:
            self._systemctl("daemon-reload") if enable else None
            self._systemctl("start", *map(unit_of, names))
        else:
            self._note("start", names)

    def stop(self, daemons: Iterable[str] = DAEMONS, disable: bool = False) -> None:
        names = list(daemons)
        if disable:
            for name in names:
                self._enable(name, on=False)
        if self.real:
            self._systemctl("stop", *map(unit_of, names), check=False)
        else:
            self._note("stop", names)

    def restart(self, daemons: Iterable[str] = DAEMONS) -> None:
        names = list(daemons)
        if self.real:
            self._systemctl("restart", *map(unit_of, names))
        else:
            self._note("restart", names)

    def active(self) -> dict[str, bool]:
        if not self.real:
            state = read_json(self._record, {})
            return {name: bool(state.get(name)) for name in DAEMONS}
        out = self._systemctl("is-active", *map(unit_of, DAEMONS), check=False).stdout.split()
        return {name: word == "active" for name, word in zip(DAEMONS, out, strict=True)}

    def enabled(self, daemon: str) -> bool:
        return (self.wants / unit_of(daemon)).is_symlink()

    def api_port(self, up: bool) -> None:
        """Open or close the control plane's port 16443; it is never open without the API server's process."""
        if self.real and self.host.api_url and (not up or self.active()["daemon-kubelite"]):
            self._systemctl("--no-block", "start" if up else "stop", API_PORT_UNIT, check=False)

    def api_port_missing(self) -> bool:
        """Nobody listens on the control plane's port, though this host is the face of an API server."""
        if not self.real or not self.host.api_url:
            return False
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        return not any(line.split()[1].endswith(f":{API_PORT:04X}") and line.split()[3] == "0A" for line in lines)

    def after_join(self) -> None:
        """The restarts of a worker's join, in the real order (kubelite and the proxy twice)."""
        order = (
            "daemon-kubelite",
            "daemon-apiserver-proxy",
            "daemon-kubelite",
            "daemon-etcd",
            "daemon-apiserver-kicker",
            "daemon-apiserver-proxy",
            "daemon-k8s-dqlite",
        )
        if not self.real:
            self._note("restart", order)
            return
        # systemd would only waste time on the doubles; the ones whose lock is set stay down by their condition.
        self._systemctl("stop", *(unit_of(d) for d in ("daemon-k8s-dqlite", "daemon-apiserver-kicker")))
        self._systemctl("restart", unit_of("daemon-apiserver-proxy"), unit_of("daemon-kubelite"))
