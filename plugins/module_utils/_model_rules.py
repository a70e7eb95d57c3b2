# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of models and of speech, and what they take of a Spark. Pure. Private to the collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ansible_collections.tokenlabs.platform.plugins.module_utils._address_rules import ipv4
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import (
    Collector,
    Host,
    Inventory,
    Locate,
    Problem,
    file_order,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._observability import METRICS
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import (
    UNREADABLE,
    Path,
    Report,
    check,
    did_you_mean,
    path_text,
    quoted,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._variables import (
    ENGINES,
    GATED,
    HOST,
    MAGPIE_TTS,
    MODEL,
    MODEL_LIMIT,
    OWN_ARGUMENTS,
    RIVA_STT,
    SECRET_NAME,
    TOOL_ENGINES,
    UNFORCED_ENGINES,
)

# The part of a Spark's unified memory that a worker takes unless it is told another; what all of them may take at most,
# as the system lives in the same memory; and up to where nothing is said of it.
MEMORY_FRACTION, MEMORY_MOST, MEMORY_COMFORT = 0.8, 0.95, 0.85

_SUFFIXES = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SUFFIXES |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


@dataclass
class Served:
    """One model that is served: where it was first defined, and on which Sparks it is."""

    host: Host
    path: Path
    model: Mapping[str, Any]
    fine: bool
    # Whether its Sparks could hold its workers, if they had nothing else to do.
    fits: bool = False
    sparks: list[Host] = field(default_factory=list)


def check_models(inventory: Inventory, collector: Collector) -> dict[str, Served] | None:
    """The models that are served, by name; None when they cannot be told."""
    served: dict[str, Served] = {}
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
            known = served.setdefault(name, Served(host, path, model, fine))
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


def _unique(served: Iterable[Served], collector: Collector) -> None:
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


def check_audio(inventory: Inventory, report: Report) -> None:
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
        if ipv4(text["host"]) and text.get("protocol") != "http":
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


def _gated(inventory: Inventory, one: Served, report: Report) -> None:
    gated = one.model.get("gated")
    if gated is None:
        gated = one.model["model"].startswith(GATED) and one.model.get("engine") != "sim"
    if gated and not inventory.shared.get("tokenlabs_hf_token"):
        report(
            (*one.path, "model"),
            f"{one.model['model']} is gated: nobody can download it without a token of Hugging Face",
            "set tokenlabs_hf_token in a vault file, or gated to false if its weights come from elsewhere",
        )


def _autoscaling(inventory: Inventory, one: Served, report: Report) -> None:
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


def _replicas(one: Served, report: Report) -> bool:
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


def _capacity(host: Host, served: Mapping[str, Served], report: Report) -> None:
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
