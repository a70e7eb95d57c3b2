# SPDX-License-Identifier: GPL-3.0-or-later
"""Breaking things on purpose: machines and cables, programs, the simulated snap and MicroK8s, the platform's effects.

Three kinds, by who acts on them:

- *machine* faults are done by the supervisor at once;
- *host* faults are entries of ``/var/lib/snapsim/faults.json`` on a host, read by its simulated programs;
- *platform* faults are entries of ConfigMap ``lab-faults`` in namespace ``lab-system``, read by world and gateway.
"""

from __future__ import annotations

import importlib
import json
import subprocess
from typing import Any

from lab import wire
from lab.paths import Lab, LabError

NAMESPACE, CONFIG_MAP = "lab-system", "lab-faults"
HOST_FILE = "/var/lib/snapsim/faults.json"
APPLY = "/usr/lib/snapsim/bin/faces"  # on the host: has it look as its faults say

MACHINE = {
    "stop": "HOST: power loss",
    "start": "HOST: power on",
    "reboot": "HOST: orderly reboot",
    "cut": "HOST: unplug its network cable",
    "heal": "HOST: plug it in again",
    "filter": "HOST PORT: packets to this TCP port of the host vanish",
    "unfilter": "HOST: none vanish any more",
    "crash": "COMPONENT: kill it; the supervisor starts it again",
    "hold": "COMPONENT: kill it and leave it down until 'crash' brings it back",
}
CONTROL = {
    "host": "HOST NAME [VALUE]: set a host fault (VALUE is JSON, default true)",
    "platform": "NAME [VALUE]: set a platform fault (default true)",
    "clear": "[HOST | platform] [NAME]: clear one fault, those of one place, or all",
    "list": "faults that are set",
}


def known(module: str) -> dict[str, str]:
    """The faults a part of the lab says it understands: NAME -> what it does."""
    try:
        return dict(importlib.import_module(module).FAULTS)
    except (ModuleNotFoundError, AttributeError):
        return {}


def host_faults() -> dict[str, str]:
    return known("lab.hostsim")


def platform_faults() -> dict[str, str]:
    return {**known("lab.world"), **known("lab.gateway")}


def catalogue() -> str:
    sections = {
        "machines and programs": MACHINE,
        "set and clear": CONTROL,
        "host faults": host_faults(),
        "platform faults": platform_faults(),
    }
    lines = []
    for title, entries in sections.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<24} {text}" for name, text in entries.items()] or ["  none"]
    return "\n".join(lines)


def inject(lab: Lab, name: str, arguments: list[str]) -> str:
    """Do it; returns a sentence about what was done."""
    if name in MACHINE:
        return machine(lab, name, arguments)
    if name == "list":
        return listing(lab)
    if name == "clear":
        return clear(lab, arguments)
    if name == "host" and len(arguments) in (2, 3):
        return set_host_fault(lab, *arguments)
    if name == "platform" and len(arguments) in (1, 2):
        return set_platform_fault(lab, *arguments)
    if name in host_faults():
        if not arguments or len(arguments) > 2:
            raise LabError(f"usage: fault {name} HOST [VALUE]")
        return set_host_fault(lab, arguments[0], name, *arguments[1:])
    if name in platform_faults():
        if len(arguments) > 1:
            raise LabError(f"usage: fault {name} [VALUE]")
        return set_platform_fault(lab, name, *arguments)
    raise LabError(f"no fault {name!r} with {len(arguments)} arguments; 'lab/ctl fault' lists them")


def machine(lab: Lab, verb: str, arguments: list[str]) -> str:
    if len(arguments) != (2 if verb == "filter" else 1):
        raise LabError(f"usage: fault {verb} {MACHINE[verb].split(':')[0]}")
    target = arguments[0]
    if verb == "filter":
        if not arguments[1].isdigit():
            raise LabError(f"fault filter: not a port: {arguments[1]}")
        wire.ask(lab.socket, verb=verb, host=target, port=int(arguments[1]))
    elif verb in ("crash", "hold"):
        wire.ask(lab.socket, verb="restart" if verb == "crash" else "hold", component=target)
    else:
        wire.ask(lab.socket, verb=verb, host=target)
    return f"{verb} {target}: done"


# host faults


def read_host_faults(lab: Lab, host: str) -> dict[str, Any]:
    text = wire.ask(lab.socket, verb="read", host=host, path=HOST_FILE)["text"]
    try:
        return json.loads(text) if text else {}
    except ValueError as error:
        raise LabError(f"{host}: {HOST_FILE} is not JSON: {error}") from error


def write_host_faults(lab: Lab, host: str, entries: dict[str, Any]) -> None:
    text = json.dumps(entries, indent=1) + "\n" if entries else None
    wire.ask(lab.socket, verb="write", host=host, path=HOST_FILE, text=text)
    done = wire.ask(lab.socket, verb="run", host=host, argv=[APPLY])
    if done["rc"]:
        raise LabError(f"{host}: the fault could not be put on: {done['output'].splitlines()[-1:]}")


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def set_host_fault(lab: Lab, host: str, name: str, value: str = "true") -> str:
    allowed = host_faults()
    if allowed and name not in allowed:
        raise LabError(f"the hosts know no fault {name!r}; they know {', '.join(allowed)}")
    entries = read_host_faults(lab, lab.host(host).name)
    entries[name] = value_of(value)
    write_host_faults(lab, host, entries)
    return f"{host}: {name} = {json.dumps(entries[name])}"


# platform faults


def kubectl(lab: Lab, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    pid = int((lab.state / "pid").read_text())
    command = ["nsenter", "-t", str(pid), "--net", f"{lab.bin}/kubectl", f"--kubeconfig={lab.kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"kubectl {arguments[0]}: {done.stderr.strip().splitlines()[-1:] or 'failed'}")
    return done


def read_platform_faults(lab: Lab) -> dict[str, str]:
    answer = kubectl(lab, "get", "configmap", CONFIG_MAP, "-n", NAMESPACE, "-o", "json", "--ignore-not-found").stdout
    return (json.loads(answer).get("data") or {}) if answer.strip() else {}


def write_platform_faults(lab: Lab, entries: dict[str, str]) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": NAMESPACE},
        "data": entries,
    }
    both = {"apiVersion": "v1", "kind": "List", "items": [namespace, config]}
    options = ("--server-side", "--force-conflicts", "--field-manager=lab-faults", "--filename=-")
    kubectl(lab, "apply", *options, stdin=json.dumps(both))


def set_platform_fault(lab: Lab, name: str, value: str = "true") -> str:
    allowed = platform_faults()
    if allowed and name not in allowed:
        raise LabError(f"the platform's stand-ins know no fault {name!r}; they know {', '.join(allowed)}")
    entries = read_platform_faults(lab)
    entries[name] = value
    write_platform_faults(lab, entries)
    return f"platform: {name} = {value}"


def clear(lab: Lab, arguments: list[str]) -> str:
    place, name = (*arguments, None, None)[:2]
    if place in (None, "platform"):
        entries = read_platform_faults(lab)
        if entries:
            write_platform_faults(lab, {key: value for key, value in entries.items() if name and key != name})
    for host in [each.name for each in lab.hosts] if place is None else [place]:
        if host != "platform":
            kept = read_host_faults(lab, lab.host(host).name)
            write_host_faults(lab, host, {key: value for key, value in kept.items() if name and key != name})
    return f"cleared {name or 'all faults'}{f' of {place}' if place else ''}"


def listing(lab: Lab) -> str:
    found = {host.name: read_host_faults(lab, host.name) for host in lab.hosts}
    found["platform"] = dict(read_platform_faults(lab))
    lines = []
    for place, entries in found.items():
        lines += [f"{place}: {key} = {json.dumps(value)}" for key, value in entries.items()]
    return "no fault is set" if not lines else "faults that are set:\n  " + "\n  ".join(lines)
