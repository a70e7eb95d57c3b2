# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules of an inventory. Pure: values in, every mistake out, nothing read or changed. Private to the collection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils import _gateway
from ansible_collections.tokenlabs.platform.plugins.module_utils._address_rules import check_addresses
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import (
    Collector,
    Inventory,
    Locate,
    Problem,
    file_order,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._limits import (
    ENVOY_UNITS,
    WindowError,
    envoy_unit,
    window_seconds,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._model_rules import Served, check_audio, check_models
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import (
    DEFAULT_RELEASE,
    RELEASES,
    broken_rules,
    kubernetes_minor,
    strained,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import (
    Path,
    Report,
    check,
    did_you_mean,
    quoted,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import check_tenants
from ansible_collections.tokenlabs.platform.plugins.module_utils._variables import (
    HOST,
    INTERNAL,
    LABEL,
    LABEL_FORM,
    NODE,
    ONLY_MICROK8S,
    RESERVED_HOSTS,
    RESERVED_NAMESPACES,
    SECRETS,
    SHARED,
    TOKEN_RULE_LIMIT,
    looks_like_placeholder,
)


def validate(inventory: Inventory, locate: Locate) -> list[Problem]:
    """Everything that is wrong with an inventory, in the order of its files."""
    collector = Collector(locate)
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
    good_models = check_models(inventory, collector)
    check_audio(inventory, shared)
    _registry(inventory, shared)
    _tiers(inventory, shared, good_models)
    _tenants(inventory, collector)
    check_addresses(inventory, collector, bool(fine.get("tokenlabs_loadbalancer_range")))
    return sorted(set(collector.problems), key=file_order)


def _names(inventory: Inventory, collector: Collector) -> None:
    known = {*SHARED, *HOST, *INTERNAL}
    for name, host in inventory.names.items():
        if name not in known:
            collector.at(host)((name,), "is not a variable of this platform", did_you_mean(name, known - {*INTERNAL}))
    for name, host in inventory.divided.items():
        collector.at(host)(
            (name,), "is not the same for all hosts, but holds for the whole platform", "move it to group_vars/all"
        )


def _hosts(inventory: Inventory, collector: Collector) -> None:
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


def _existing(inventory: Inventory, collector: Collector) -> None:
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


def _registry(inventory: Inventory, report: Report) -> None:
    registry, password = (inventory.shared.get(f"tokenlabs_registry{part}") for part in ("", "_password"))
    if bool(registry) is not bool(password):
        name, other = ("tokenlabs_registry", "tokenlabs_registry_password")[:: 1 if registry else -1]
        report((name,), f"is set without {other}", f"set {other} too, or remove it")


def _tiers(inventory: Inventory, report: Report, models: Mapping[str, Served] | None) -> None:
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


def _entitlements(name: str, allowed: Any, models: Mapping[str, Served], path: Path, report: Report) -> None:
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


def _tenants(inventory: Inventory, collector: Collector) -> None:
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
