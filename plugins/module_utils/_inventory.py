# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of an inventory. Pure: values in, every mistake out, nothing read or changed. Private to the collection."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ansible_collections.tokenlabs.platform.plugins.module_utils import _gateway
from ansible_collections.tokenlabs.platform.plugins.module_utils._limits import (
    ENVOY_UNITS,
    WindowError,
    envoy_unit,
    window_seconds,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._observability import METRICS
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import (
    DEFAULT_RELEASE,
    RELEASES,
    broken_rules,
    kubernetes_minor,
    strained,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import (
    UNREADABLE,
    Path,
    Report,
    check,
    did_you_mean,
    path_text,
    quoted,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import check_tenants
from ansible_collections.tokenlabs.platform.plugins.module_utils._variables import (
    ENGINES,
    GATED,
    HOST,
    HOST_PORTS,
    INTERNAL,
    LABEL,
    LABEL_FORM,
    MAGPIE_TTS,
    MODEL,
    MODEL_LIMIT,
    NETWORKS,
    NODE,
    ONLY_MICROK8S,
    OWN_ARGUMENTS,
    RESERVED_HOSTS,
    RESERVED_NAMESPACES,
    RIVA_STT,
    SECRET_NAME,
    SECRETS,
    SHARED,
    TOKEN_RULE_LIMIT,
    TOOL_ENGINES,
    UNFORCED_ENGINES,
    looks_like_placeholder,
)

# The part of a Spark's unified memory that a worker takes unless it is told another; what all of them may take at most,
# as the system lives in the same memory; and up to where nothing is said of it.
MEMORY_FRACTION, MEMORY_MOST, MEMORY_COMFORT = 0.8, 0.95, 0.85

_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SUFFIXES |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

# Says where a value was written: (host or None for platform-wide values, path) -> "host_vars/spark-01.yml:7".
Locate = Callable[["str | None", Path], str]


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: where, what is wrong, what would be right."""

    file: str
    path: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        subject = f"{self.path} " if self.path else ""
        return f"{self.file}: {subject}{self.reason}; {self.remedy}"


@dataclass(frozen=True)
class Host:
    """A host of the groups V(controllers) or V(sparks) with the variables that may differ from host to host."""

    name: str
    controller: bool
    spark: bool
    vars: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> Any:
        """The address of this host for the other hosts of the cluster."""
        return self.vars.get("tokenlabs_cluster_address") or self.vars.get("ansible_host") or self.name

    @property
    def served(self) -> list[Mapping[str, Any]]:
        """The models that this host serves, each once; of those that are no more, nothing."""
        models = self.vars.get("tokenlabs_models")
        found: dict[str, Mapping[str, Any]] = {}
        for model in models if isinstance(models, (list, tuple)) else ():
            if isinstance(model, Mapping) and isinstance(model.get("name"), str) and model.get("state") != "absent":
                found.setdefault(model["name"], model)
        return list(found.values())


@dataclass(frozen=True)
class TenantFile:
    """A file with tenants, and the line on which each of them begins."""

    name: str
    entries: Sequence[Any]
    lines: Sequence[int]


@dataclass(frozen=True)
class Inventory:
    """Everything of an inventory that concerns the platform."""

    hosts: tuple[Host, ...]
    # Platform-wide variables, read once.
    shared: Mapping[str, Any] = field(default_factory=dict)
    # Every variable tokenlabs_* that exists, with the first host that has it.
    names: Mapping[str, str] = field(default_factory=dict)
    # Platform-wide variables that some hosts define differently, with one such host.
    divided: Mapping[str, str] = field(default_factory=dict)
    tenant_files: tuple[TenantFile, ...] = ()
    # Names of files are relative to it.
    directory: str = ""
    # The folders of tokenlabs_image_builds: name -> (absolute path, what its content and settings add up to).
    contexts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def controllers(self) -> list[Host]:
        return [host for host in self.hosts if host.controller]

    @property
    def sparks(self) -> list[Host]:
        return [host for host in self.hosts if host.spark]

    @property
    def existing(self) -> bool:
        """Whether somebody else runs the cluster: hosts are nodes of it by name, and none of them is touched."""
        return self.shared.get("tokenlabs_cluster") == "existing"


class _Collector:
    """Gathers problems and finds out where each was written."""

    def __init__(self, locate: Locate) -> None:
        self.problems: list[Problem] = []
        self._locate = locate

    def at(self, host: str | None) -> Report:
        def report(path: Path, reason: str, remedy: str) -> None:
            self.problems.append(Problem(self._locate(host, path), path_text(path), reason, remedy))

        return report

    def in_file(self, file: TenantFile) -> Report:
        def report(path: Path, reason: str, remedy: str) -> None:
            line = f":{file.lines[path[0]]}" if path and isinstance(path[0], int) else ""
            self.problems.append(Problem(f"{file.name}{line}", path_text(path), reason, remedy))

        return report


def validate(inventory: Inventory, locate: Locate) -> list[Problem]:
    """Everything that is wrong with an inventory, in the order of its files."""
    collector = _Collector(locate)
    shared = collector.at(None)
    _names(inventory, collector)
    fine = {
        name: check(schema, inventory.shared[name], (name,), shared)
        for name, schema in SHARED.items()
        if inventory.shared.get(name) is not None and name not in SECRETS
    }
    _hosts(inventory, collector)
    _existing(inventory, collector)
    _namespace(inventory, shared)
    _secrets(inventory, shared)
    _gateway.validate(inventory.shared, fine, shared)
    _versions(inventory, shared)
    _mirrors(inventory, shared)
    _images(inventory, shared)
    _observability(inventory, shared)
    good_models = _models(inventory, collector)
    _audio(inventory, shared)
    _registry(inventory, shared)
    _tiers(inventory, shared, good_models)
    _tenants(inventory, collector)
    _addresses(inventory, collector, bool(fine.get("tokenlabs_loadbalancer_range")))
    return sorted(set(collector.problems), key=file_order)


def file_order(problem: Problem) -> tuple[str, int, str, str]:
    file, _separator, line = problem.file.rpartition(":")
    if not line.isdigit():
        file, line = problem.file, "0"
    return file, int(line), problem.path, problem.reason


def _names(inventory: Inventory, collector: _Collector) -> None:
    known = {*SHARED, *HOST, *INTERNAL}
    for name, host in inventory.names.items():
        if name not in known:
            collector.at(host)((name,), "is not a variable of this platform", did_you_mean(name, known - {*INTERNAL}))
    for name, host in inventory.divided.items():
        collector.at(host)(
            (name,), "is not the same for all hosts, but holds for the whole platform", "move it to group_vars/all"
        )


def _hosts(inventory: Inventory, collector: _Collector) -> None:
    everywhere = collector.at(None)
    if not inventory.controllers:
        everywhere(("controllers",), "has no host", "name the controller in the group controllers")
    controllers = len(inventory.controllers)
    if controllers and controllers % 2 == 0 and not inventory.existing:
        reason = (
            f"has {controllers} hosts: a majority must be up, so no more of them may fail than of {controllers - 1}"
        )
        everywhere(("controllers",), reason, f"name {controllers - 1} or {controllers + 1}")
    if not inventory.sparks:
        everywhere(("sparks",), "has no host", "name at least one Spark in the group sparks")
    seen: dict[str, str] = {}
    for host in inventory.hosts:
        report = collector.at(host.name)
        if inventory.existing and re.fullmatch(NODE, host.name):
            pass
        elif not re.fullmatch(LABEL, host.name):
            remedy = f"write {LABEL_FORM}; a full name belongs into ansible_host"
            if re.fullmatch(LABEL, host.name.lower()):
                remedy = f"write {host.name.lower()}"
            report((), f"{quoted(host.name)} cannot be the name of a node", remedy)
        elif host.name in RESERVED_HOSTS:
            report((), f"{quoted(host.name)} cannot be the name of a host: it is Ansible's or a group's", "rename it")
        if host.name.lower() in seen:
            report(
                (),
                f"{quoted(host.name)} and {quoted(seen[host.name.lower()])} are one name to Kubernetes",
                "rename one",
            )
        seen.setdefault(host.name.lower(), host.name)
        for name, schema in HOST.items():
            if name != "tokenlabs_models" and host.vars.get(name) is not None:
                check(schema, host.vars[name], (name,), report)
        if host.controller and host.spark and host.vars.get("tokenlabs_controller_is_spark") is not True:
            report(
                (),
                f"{quoted(host.name)} is in both groups, controllers and sparks",
                "leave it in one, or set tokenlabs_controller_is_spark to true if this Spark is also the controller",
            )
        if not host.spark:
            for name in ("tokenlabs_models", "tokenlabs_gpu_slots"):
                if host.vars.get(name):
                    report(
                        (name,), f"is set for {host.name}, which is no Spark", "move it to a host of the group sparks"
                    )


def _existing(inventory: Inventory, collector: _Collector) -> None:
    """What makes no sense, and what is needed, where the cluster is somebody else's."""
    if not inventory.existing:
        return
    report = collector.at(None)
    if len(inventory.controllers) > 1:
        reason = "has more than one host, but with tokenlabs_cluster: existing it names where helm runs"
        report(("controllers",), reason, "leave one, such as localhost")
    for host in inventory.controllers:
        if host.spark:
            report(("controllers",), f"names {host.name}, a Spark too", "name the machine that helm runs on, no node")
    if inventory.shared.get("tokenlabs_kubeconfig") is None:
        report(("tokenlabs_kubeconfig",), "is missing", "write the path of the cluster's kubeconfig")
    for name in ONLY_MICROK8S:
        if inventory.shared.get(name) is not None:
            report((name,), "is set, but the cluster is not this platform's", "remove it, or tokenlabs_cluster")
        for host in inventory.hosts:
            if host.vars.get(name) is not None:
                collector.at(host.name)((name,), "is set, but the cluster is not this platform's", "remove it")


def _namespace(inventory: Inventory, report: Report) -> None:
    name = inventory.shared.get("tokenlabs_namespace")
    if isinstance(name, str) and (name in RESERVED_NAMESPACES or name.startswith("kube-")):
        report(("tokenlabs_namespace",), f"is {name}, which belongs to another part", "choose one such as token-labs")


def _secrets(inventory: Inventory, report: Report) -> None:
    for name in SECRETS:
        value = inventory.shared.get(name)
        if value is None:
            continue
        if isinstance(value, str) and value.strip() and looks_like_placeholder(value):
            report((name,), "is a placeholder or far too simple", "put the real one into a vault file")
        else:
            check(SHARED[name], value, (name,), report)


def _versions(inventory: Inventory, report: Report) -> None:
    name = inventory.shared.get("tokenlabs_release") or DEFAULT_RELEASE
    if not isinstance(name, str):
        return
    release = RELEASES.get(name)
    if release is None:
        report(("tokenlabs_release",), f"is {quoted(name)}, which does not exist", did_you_mean(name, RELEASES))
        return
    overrides = inventory.shared.get("tokenlabs_versions") or {}
    channel = inventory.shared.get("tokenlabs_microk8s_channel") or release.kubernetes_channel
    if inventory.existing:
        # Which version it is, is seen when it is looked at.
        channel = release.newest_kubernetes
    if not isinstance(overrides, Mapping) or not isinstance(channel, str):
        return
    versions = {**release.versions, "kubernetes": kubernetes_minor(channel)}
    for component, version in overrides.items():
        if component not in release.versions or not isinstance(version, str):
            continue
        prefix = "v" if release.versions[component].startswith("v") else ""
        if not re.fullmatch(prefix + r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?", version):
            report(
                ("tokenlabs_versions", component),
                f"is {quoted(version)}, not one version",
                f"write one such as {release.versions[component]}",
            )
            return
        versions[component] = version
    if not re.fullmatch(r"1\.[0-9]{2}", versions["kubernetes"]):
        return
    if inventory.shared.get("tokenlabs_release_unsupported") is True:
        return
    rules = [rule for rule in broken_rules(versions) if not strained(rule, release, overrides)]
    # One channel is one mistake.
    for rule in rules if overrides else rules[:1]:
        remedy = f"{rule.remedy}, or set tokenlabs_release_unsupported to true to try it at your own risk"
        culprit = next((component for component in rule.components if component in overrides), None)
        path: Path = ("tokenlabs_versions", culprit) if culprit else ("tokenlabs_microk8s_channel",)
        report(path, f"cannot be: {rule.reason} (source: {rule.source})", remedy)


def _images(inventory: Inventory, report: Report) -> None:
    images = inventory.shared.get("tokenlabs_images")
    image = images.get("epp") if isinstance(images, Mapping) else None
    if isinstance(image, str) and "@" in image and ":" not in image.partition("@")[0].rpartition("/")[2]:
        report(("tokenlabs_images", "epp"), "has no tag, which its chart asks for", "add one before the digest")


def _mirrors(inventory: Inventory, report: Report) -> None:
    mirrors = inventory.shared.get("tokenlabs_mirrors")
    if isinstance(mirrors, Mapping) and mirrors.get("charts_plain_http") is True and not mirrors.get("charts"):
        report(
            ("tokenlabs_mirrors", "charts_plain_http"), "is set without a mirror for charts", "add charts or remove it"
        )


@dataclass
class _Served:
    """One model that is served: where it was first defined, and on which Sparks it is."""

    host: Host
    path: Path
    model: Mapping[str, Any]
    fine: bool
    # Whether its Sparks could hold its workers, if they had nothing else to do.
    fits: bool = False
    sparks: list[Host] = field(default_factory=list)


def _models(inventory: Inventory, collector: _Collector) -> dict[str, _Served] | None:
    """The models that are served, by name; None when they cannot be told."""
    served: dict[str, _Served] = {}
    certain = True
    for host in inventory.sparks:
        report = collector.at(host.name)
        value = host.vars.get("tokenlabs_models")
        if value is None:
            continue
        if not isinstance(value, (list, tuple)):
            certain = False
            check(HOST["tokenlabs_models"], value, ("tokenlabs_models",), report)
            continue
        here: set[str] = set()
        for index, model in enumerate(value):
            path: Path = ("tokenlabs_models", index)
            fine = check(MODEL, model, path, report)
            name = model.get("name") if isinstance(model, Mapping) else None
            if not isinstance(name, str):
                certain = False
                continue
            if name in here:
                report((*path, "name"), f"{name} is on this host twice", "remove one")
                continue
            here.add(name)
            if model.get("state") == "absent":
                continue
            known = served.setdefault(name, _Served(host, path, model, fine))
            known.sparks.append(host)
            different = _different_keys(known.model, model)
            if different:
                report(
                    path,
                    f"defines {name} otherwise than {known.host.name} does (different: {', '.join(different)})",
                    "one model has one definition: make them equal, or give this one another name",
                )
    for one in served.values():
        if one.fine:
            report = collector.at(one.host.name)
            _model(one.model, one.path, report)
            _image(inventory, one.model, one.path, report)
            _access(inventory, one.model, one.path, report)
            _gated(inventory, one, report)
            _autoscaling(inventory, one, report)
            one.fits = _replicas(one, report)
    _unique(served.values(), collector)
    for host in inventory.sparks:
        _capacity(host, served, collector.at(host.name))
    if len(served) > MODEL_LIMIT:
        collector.at(None)(
            ("tokenlabs_models",), f"names {len(served)} models, one route holds {MODEL_LIMIT}", "serve fewer models"
        )
    if inventory.sparks and certain and not served:
        collector.at(None)(
            ("tokenlabs_models",),
            "is empty on every Spark: nothing would be served",
            "add a model to host_vars of a Spark",
        )
    return served if certain else None


def _different_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(
        str(key)
        for key in {*one, *other} - {"state"}
        if one.get(key) != other.get(key) and UNREADABLE not in (one.get(key), other.get(key))
    )


def _unique(served: Iterable[_Served], collector: _Collector) -> None:
    """What must not be the same for two models: what clients call them, and the names of their objects."""
    public: dict[str, str] = {}
    releases: dict[str, str] = {}
    labels: dict[str, str] = {}
    for one in served:
        if not one.fine:
            continue
        report, name = collector.at(one.host.name), one.model["name"]
        key = "served_name" if one.model.get("served_name") else "model"
        called = one.model[key]
        if called in public:
            report(
                (*one.path, key),
                f"{quoted(called)} is what clients already call {public[called]}",
                "set served_name to a name of its own",
            )
        public.setdefault(called, name)
        names = names_of(one.model)
        for role, known in (("pool", releases), ("worker", releases), ("label", labels)):
            if names[role] in known:
                path = (*one.path, "adopt", role) if (one.model.get("adopt") or {}).get(role) else (*one.path, "name")
                what = "label" if role == "label" else "release"
                report(path, f"makes the {what} {names[role]}, as {known[names[role]]} does", "choose another name")
            known.setdefault(names[role], name)


def names_of(model: Mapping[str, Any]) -> dict[str, str]:
    """What the releases of a model are called, and the value of the label by which its pool knows its workers."""
    name, adopted = model["name"], model.get("adopt") or {}
    adopted = {role: known for role, known in adopted.items() if known}
    return {"pool": f"pool-{name}", "worker": f"ms-{name}", "label": name, **adopted}


def _model(model: Mapping[str, Any], path: Path, report: Report) -> None:
    engine = model.get("engine") or "vllm"
    if engine == "custom" and not model.get("command"):
        report((*path, "command"), "is missing", "the engine custom needs the command that starts the server")
    for key, engines in (
        ("command", ("custom",)),
        ("forces_usage", UNFORCED_ENGINES),
        ("tool_parser", TOOL_ENGINES),
        ("memory_fraction", [name for name in ENGINES if name != "sim"]),
        ("cache_size", [name for name in ENGINES if name != "sim"]),
    ):
        if model.get(key) is not None and engine not in engines:
            report(
                (*path, key), f"has no effect with the engine {engine}", f"remove it; it is for {', '.join(engines)}"
            )
    if engine == "trtllm" and model.get("served_name"):
        report((*path, "served_name"), "cannot be set: trtllm-serve knows its model by its id only", "remove it")
    if engine == "sim" and model.get("gpus"):
        report((*path, "gpus"), "is set for the simulator, which uses none", "remove it")
    if engine == "sim" and "llm-d-inference-sim" not in model.get("image", ""):
        report(
            (*path, "image"), "is not the simulator", "use ghcr.io/llm-d/llm-d-inference-sim:v0.7.1, or the engine vllm"
        )
    own = OWN_ARGUMENTS[engine]
    for index, argument in enumerate(model.get("args") or []):
        flag = argument.split("=", maxsplit=1)[0].split(maxsplit=1)[0]
        remedy = own.get(flag.replace("_", "-"))
        if remedy:
            report((*path, "args", index), f"{flag} must not be set", remedy)
    resources = model.get("resources") or {}
    for resource, limit in (resources.get("limits") or {}).items():
        request = (resources.get("requests") or {}).get(resource)
        if request is not None and amount(request) > amount(limit):
            report((*path, "resources", "requests", resource), f"is {request}, above the limit {limit}", "write less")
    for name in model.get("env") or {}:
        if SECRET_NAME.search(name):
            report(
                (*path, "env", name),
                "looks like a secret, which everyone who may list pods could read here",
                "use tokenlabs_hf_token for Hugging Face, and no other",
            )


def _access(inventory: Inventory, what: Mapping[str, Any], path: Path, report: Report) -> None:
    """The tiers that something is for."""
    tiers = inventory.shared.get("tokenlabs_tiers")
    if not isinstance(tiers, Mapping):
        return
    for index, tier in enumerate(what.get("access") or []):
        if tier not in tiers:
            known = [str(name) for name in tiers]
            report((*path, "access", index), f"{quoted(tier)} is no tier", did_you_mean(tier, known))


def _image(inventory: Inventory, what: Mapping[str, Any], path: Path, report: Report) -> None:
    """An image has a name, or is built."""
    builds = inventory.shared.get("tokenlabs_image_builds")
    known = [str(name) for name in builds] if isinstance(builds, Mapping) else []
    if what.get("image") and what.get("build"):
        report((*path, "build"), "is set beside image", "remove one of them")
    elif not what.get("image") and not what.get("build"):
        report((*path, "image"), "is missing", "add it, or build and the name of one of tokenlabs_image_builds")
    elif what.get("build") and what["build"] not in known:
        report((*path, "build"), f"{quoted(what['build'])} is not built", did_you_mean(what["build"], known))


def _audio(inventory: Inventory, report: Report) -> None:
    """Speech in both directions, where it is wanted and has been found to be of the right form."""
    speech = inventory.shared.get("tokenlabs_magpie_tts")
    if _fits(speech, MAGPIE_TTS):
        path: Path = ("tokenlabs_magpie_tts",)
        hosts = [host.name for host in inventory.hosts]
        if speech["host"] not in hosts:
            report(
                (*path, "host"),
                f"{quoted(speech['host'])} is no host of the cluster",
                did_you_mean(speech["host"], hosts),
            )
        _image(inventory, speech, path, report)
        _access(inventory, speech, path, report)
    text = inventory.shared.get("tokenlabs_riva_stt")
    if _fits(text, RIVA_STT):
        path = ("tokenlabs_riva_stt",)
        _access(inventory, text, path, report)
        if text["host"].endswith("nvidia.com") and not inventory.shared.get("tokenlabs_nvidia_api_key"):
            report((*path, "host"), "is NVIDIA's, which asks for a key", "set tokenlabs_nvidia_api_key in a vault file")
        if _ipv4(text["host"]) and text.get("protocol") != "http":
            report((*path, "host"), "is an address, and certificates are for names", "write its name, or use http")
        if text.get("protocol") == "http" and inventory.shared.get("tokenlabs_nvidia_api_key"):
            report(
                (*path, "protocol"),
                "is http: tokenlabs_nvidia_api_key would be sent in clear text",
                "use https, or remove the key if the server asks for none",
            )


def _fits(value: Any, schema: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether something is set and of its form; what is wrong with its form has been reported."""
    return value is not None and check(schema, value, (), lambda path, reason, remedy: None)


def _registry(inventory: Inventory, report: Report) -> None:
    registry, password = (inventory.shared.get(f"tokenlabs_registry{part}") for part in ("", "_password"))
    if bool(registry) is not bool(password):
        name, other = ("tokenlabs_registry", "tokenlabs_registry_password")[:: 1 if registry else -1]
        report((name,), f"is set without {other}", f"set {other} too, or remove it")


def _gated(inventory: Inventory, one: _Served, report: Report) -> None:
    gated = one.model.get("gated")
    if gated is None:
        gated = one.model["model"].startswith(GATED) and one.model.get("engine") != "sim"
    if gated and not inventory.shared.get("tokenlabs_hf_token"):
        report(
            (*one.path, "model"),
            f"{one.model['model']} is gated: nobody can download it without a token of Hugging Face",
            "set tokenlabs_hf_token in a vault file, or gated to false if its weights come from elsewhere",
        )


def _autoscaling(inventory: Inventory, one: _Served, report: Report) -> None:
    """An autoscaler that could never act is refused."""
    most = one.model.get("max_replicas")
    if most is None:
        return
    path, least = (*one.path, "max_replicas"), one.model.get("replicas") or len(one.sparks)
    if most <= least:
        reason = f"is {most}, and there are {least} replicas from the start: nothing could be added"
        report(path, reason, "write replicas: 1, or leave max_replicas out")
    if (one.model.get("engine") or "vllm") not in METRICS:
        engine = one.model["engine"]
        report(path, f"cannot be for the engine {engine}, which tells nobody of its queue", "leave it out")
    chosen = inventory.shared.get("tokenlabs_observability")
    if not isinstance(chosen, Mapping) or (chosen.get("prometheus") or "none") == "none":
        report(path, "needs a Prometheus that reads the queue", "set tokenlabs_observability: {prometheus: stack}")


def workers_on_each(model: Mapping[str, Any], sparks: int) -> int:
    """How many workers of a model one of its Sparks may get: they are spread evenly, and none comes without a place."""
    return -(-(model.get("max_replicas") or model.get("replicas") or sparks) // sparks)


def _slots(host: Host) -> int:
    slots = host.vars.get("tokenlabs_gpu_slots")
    return slots if isinstance(slots, int) and not isinstance(slots, bool) else 1


def _replicas(one: _Served, report: Report) -> bool:
    """False when even Sparks with nothing else on them could not hold the workers, which are spread evenly."""
    gpus, sparks = gpus_of(one.model), len(one.sparks)
    room = min(_slots(host) for host in one.sparks) // gpus if gpus else None
    each = workers_on_each(one.model, sparks)
    if room is None or each <= max(room, 1):
        return True
    where = ", ".join(host.name for host in one.sparks)
    name = "max_replicas" if one.model.get("max_replicas") else "replicas"
    report(
        (*one.path, name),
        f"is {one.model[name]}, above the GPU slots of {where}, which hold {room * sparks}",
        "write less, name the model on more Sparks, or share their GPUs with tokenlabs_gpu_slots",
    )
    return False


def amount(quantity: str) -> float:
    """What a quantity such as 500m or 32Gi stands for."""
    number = quantity.rstrip("mkMGTi")
    return float(number) * _SUFFIXES[quantity[len(number) :]]


def gpus_of(model: Mapping[str, Any]) -> int:
    """How many GPUs one worker of a model takes."""
    default = 0 if model.get("engine") == "sim" else 1
    gpus = model.get("gpus")
    return gpus if isinstance(gpus, int) and not isinstance(gpus, bool) else default


def memory_of(model: Mapping[str, Any]) -> float:
    """The part of a Spark's unified memory that one worker of a model may take."""
    if not gpus_of(model):
        return 0.0
    return float(model.get("memory_fraction") or MEMORY_FRACTION)


def load_of(models: Iterable[Mapping[str, Any]], sparks: Mapping[str, int]) -> tuple[int, float]:
    """The GPU slots, and the part of the unified memory, that models take on a Spark; sparks: on how many each is."""
    gpus, memory = 0, 0.0
    for model in models:
        workers = workers_on_each(model, sparks[model["name"]])
        gpus += workers * gpus_of(model)
        memory += workers * memory_of(model)
    return gpus, round(memory, 4)


def _capacity(host: Host, served: Mapping[str, _Served], report: Report) -> None:
    if not all(served[model["name"]].fits for model in host.served):
        return
    count = {name: len(one.sparks) for name, one in served.items()}
    slots, (gpus, memory) = _slots(host), load_of(host.served, count)
    if gpus > slots:
        report(
            ("tokenlabs_models",),
            f"needs {gpus} GPU slots, {host.name} has {slots}",
            f"move a model to another Spark, or share the GPU with tokenlabs_gpu_slots: {gpus}"
            if slots
            else "move the models to a Spark with a GPU, or remove tokenlabs_gpu_slots: 0",
        )
    elif memory > MEMORY_MOST:
        report(
            ("tokenlabs_models",),
            f"takes {memory:g} of the unified memory of {host.name}, which is more than {MEMORY_MOST:g}",
            f"give the models a memory_fraction (default {MEMORY_FRACTION:g}) that leaves the system its part",
        )


def remarks(inventory: Inventory, locate: Locate) -> list[Problem]:
    """What is allowed in a valid inventory and yet should be looked at."""
    found = []
    count = Counter(model["name"] for host in inventory.sparks for model in host.served)
    for host in inventory.sparks:
        _gpus, memory = load_of(host.served, count)
        if memory > MEMORY_COMFORT:
            path: Path = ("tokenlabs_models",)
            reason = f"takes {memory:g} of the unified memory of {host.name}, more than {MEMORY_COMFORT:g}"
            remedy = "a longer context or another process may run it out of memory; lower memory_fraction if it does"
            found.append(Problem(locate(host.name, path), path_text(path), reason, remedy))
    return sorted(found, key=file_order)


def _tiers(inventory: Inventory, report: Report, models: Mapping[str, _Served] | None) -> None:
    tiers = inventory.shared.get("tokenlabs_tiers")
    if tiers is None:
        report(("tokenlabs_tiers",), "is missing", "define at least one tier in group_vars/all/tiers.yml")
    if not isinstance(tiers, Mapping):
        return
    counted_by_envoy = (inventory.shared.get("tokenlabs_token_limits") or "envoy") == "envoy"
    rules = 0
    for name, tier in tiers.items():
        if not isinstance(tier, Mapping):
            continue
        path: Path = ("tokenlabs_tiers", str(name))
        for what in ("requests", "tokens"):
            limits = tier.get(what)
            if isinstance(limits, Mapping):
                _same_length(limits, (*path, what), report)
        tokens = tier.get("tokens")
        if counted_by_envoy and isinstance(tokens, Mapping):
            rules += len(tokens)
            for window in tokens:
                _envoy_window(window, (*path, "tokens", str(window)), report)
        if models is not None:
            _entitlements(str(name), tier.get("models"), models, path, report)
    if rules > TOKEN_RULE_LIMIT:
        report(
            ("tokenlabs_tiers",),
            f"has {rules} token limits, Envoy Gateway takes {TOKEN_RULE_LIMIT}",
            "use fewer tiers or windows, or set tokenlabs_token_limits to kuadrant",
        )


def _entitlements(name: str, allowed: Any, models: Mapping[str, _Served], path: Path, report: Report) -> None:
    """What a tier says of models, and what they say of it."""
    closed = [model for model, one in models.items() if one.fine and name not in (one.model.get("access") or [name])]
    if isinstance(allowed, (list, tuple)):
        for index, model in enumerate(allowed):
            if isinstance(model, str) and model not in models:
                report((*path, "models", index), f"{quoted(model)} is served by no Spark", did_you_mean(model, models))
            elif model in closed:
                remedy = f"add {name} to that access, or remove the model here"
                report((*path, "models", index), f"names {model}, whose access leaves this tier out", remedy)
    elif models and len(closed) == len(models):
        report(path, "may use no model: the access of each leaves it out", f"add {name} to the access of one")


def _same_length(limits: Mapping[Any, Any], path: Path, report: Report) -> None:
    seen: dict[int, str] = {}
    for window in limits:
        try:
            seconds = window_seconds(window) if isinstance(window, str) else 0
        except WindowError:
            continue
        if seconds in seen:
            report((*path, str(window)), f"is as long as {seen[seconds]}", "keep one of them")
        elif seconds:
            seen[seconds] = window


def _envoy_window(window: Any, path: Path, report: Report) -> None:
    try:
        if isinstance(window, str) and window_seconds(window) not in ENVOY_UNITS:
            envoy_unit(window)
    except WindowError as error:
        # A window of no form at all has been reported by the schema.
        if "Envoy Gateway" in error.reason:
            report(path, error.reason, error.remedy)


def _tenants(inventory: Inventory, collector: _Collector) -> None:
    tenants = inventory.shared.get("tokenlabs_tenants")
    tiers = inventory.shared.get("tokenlabs_tiers")
    known = [str(name) for name in tiers] if isinstance(tiers, Mapping) else None
    seen: dict[tuple[str, str], str] = {}
    if isinstance(tenants, (list, tuple)):
        # Their form has been checked with that of the other variables.
        check_tenants(tenants, ("tokenlabs_tenants",), known, collector.at(None), seen, form=False)
    for file in inventory.tenant_files:
        check_tenants(file.entries, (), known, collector.in_file(file), seen, where=file.name)


def _observability(inventory: Inventory, report: Report) -> None:
    """Settings that would have no effect are refused: who wrote them believes in one."""
    chosen = inventory.shared.get("tokenlabs_observability")
    if not isinstance(chosen, Mapping):
        return
    mode = chosen.get("prometheus") or "none"
    path: Path = ("tokenlabs_observability",)
    own = {"stack": ("retention", "storage"), "existing": ("url", "labels")}
    for needs, names in own.items():
        for name in names:
            if chosen.get(name) is not None and mode != needs:
                report(
                    (*path, name), f"has no effect with prometheus: {mode}", f"remove it, or set prometheus: {needs}"
                )
    if chosen.get("namespace") and mode == "none":
        report((*path, "namespace"), "has no effect with prometheus: none", "remove it, or set prometheus: stack")
    if mode == "existing":
        for name, remedy in (
            ("url", "add how pods reach it, such as http://prometheus-operated.observability.svc:9090"),
            ("namespace", "add the namespace in which it looks for monitors and rules"),
        ):
            if not chosen.get(name):
                report((*path, name), "is missing", remedy)


def _ipv4(value: Any) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _addresses(inventory: Inventory, collector: _Collector, range_is_text: bool) -> None:
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
        chosen = _ipv4(wanted)
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


def _logins(inventory: Inventory, collector: _Collector) -> None:
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


def _networks(inventory: Inventory, owners: Mapping[ipaddress.IPv4Address, str], collector: _Collector) -> None:
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
    address = _ipv4(given)
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
        low, high = _ipv4(first.strip()), _ipv4(last.strip())
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
