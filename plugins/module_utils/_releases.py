# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Release sets: which versions belong together, and which must not meet. Private to the collection.

A set is one coherent choice; _release_sets.py lists them. A single version may be overridden with tokenlabs_versions;
the rules below then say whether the mixture is one that upstream documents, has not tested, or knows to break.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils import _release_sets as data

DEFAULT_RELEASE = "2026.07"
ARCHITECTURES = ("amd64", "arm64")


@dataclass(frozen=True)
class Chart:
    """A chart: in an OCI registry (``oci://``) or in a classic repository; ``component`` names its version."""

    repository: str
    name: str
    component: str


@dataclass(frozen=True)
class Download:
    """A program for the controller; ``checksums`` is the file with its sha256 that upstream publishes beside it."""

    url: str
    checksums: str


@dataclass(frozen=True)
class Release:
    """One set. ``strains`` names the rules that it breaks by itself, with the reason; they warn."""

    name: str
    kubernetes_channel: str
    oldest_kubernetes: str
    newest_kubernetes: str
    versions: Mapping[str, str]
    images: Mapping[str, str]
    strains: Mapping[str, str]


CHARTS: dict[str, Chart] = {key: Chart(**chart) for key, chart in data.CHARTS.items()}
MANIFESTS: dict[str, str] = dict(data.MANIFESTS)
DOWNLOADS: dict[str, Download] = {key: Download(**download) for key, download in data.DOWNLOADS.items()}


def _release(name: str, told: Mapping[str, Any]) -> Release:
    kubernetes = told["kubernetes"]
    return Release(
        name,
        kubernetes["channel"],
        kubernetes["oldest"],
        kubernetes["newest"],
        told["versions"],
        told["images"],
        told["strains"],
    )


RELEASES: dict[str, Release] = {name: _release(name, told) for name, told in data.SETS.items()}


def checksum(component: str, version: str, architecture: str) -> str | None:
    """The published SHA-256, where it is known."""
    known: Mapping[str, Any] = data.CHECKSUMS
    return known.get(component, {}).get(version, {}).get(architecture)


def version_key(version: str) -> tuple[int, ...]:
    """``v1.7.0-rc.0`` as ``(1, 7, 0)``: a pre-release counts as the version it leads to."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", version.split("-")[0])[:3])


Versions = Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """A combination that upstream rules out or has not tested; tokenlabs_release_unsupported accepts it."""

    id: str
    components: tuple[str, ...]
    broken: Callable[[Versions], bool]
    reason: str
    remedy: str
    source: str


def _below(component: str, version: str) -> Callable[[Versions], bool]:
    return lambda versions: version_key(versions[component]) < version_key(version)


def _outside(component: str, low: str, high: str) -> Callable[[Versions], bool]:
    """Not in ``[low, high)``."""
    return lambda versions: not version_key(low) <= version_key(versions[component]) < version_key(high)


def _when(component: str, low: str, high: str, broken: Callable[[Versions], bool]) -> Callable[[Versions], bool]:
    """``broken``, but only for a component in ``[low, high)``."""
    outside = _outside(component, low, high)
    return lambda versions: not outside(versions) and broken(versions)


_AI_GATEWAY = "envoyproxy/ai-gateway site/docs/compatibility.md"
_ENVOY_GATEWAY = "envoyproxy/gateway site/content/en/news/releases/matrix.md"

# `kubernetes` is the minor version of the channel, such as 1.34.
RULES: tuple[Rule, ...] = (
    Rule(
        "ai-gateway-0.5",
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.5", "0.6", _below("envoy_gateway", "1.6")),
        "Envoy AI Gateway 0.5 needs Envoy Gateway 1.6 or newer",
        "use envoy_gateway v1.7.5",
        f"{_AI_GATEWAY} at v0.6.0",
    ),
    Rule(
        "ai-gateway-0.5-newest",
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.5", "0.7", lambda v: not _below("envoy_gateway", "1.8")(v)),
        "Envoy AI Gateway 0.5 and 0.6 are built on Envoy Gateway 1.7 and not tested with newer ones",
        "use envoy_gateway v1.7.5",
        "envoyproxy/ai-gateway go.mod at v0.5.0 and v0.6.0",
    ),
    Rule(
        "ai-gateway-0.6",
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.6", "0.7", _below("envoy_gateway", "1.7")),
        "Envoy AI Gateway 0.6 needs Envoy Gateway 1.7 or newer",
        "use envoy_gateway v1.7.5",
        f"{_AI_GATEWAY} at v0.7.0",
    ),
    Rule(
        "ai-gateway-0.7",
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.7", "99", _below("envoy_gateway", "1.8")),
        "Envoy AI Gateway 0.7 and newer need Envoy Gateway 1.8 or newer",
        "use envoy_gateway v1.8.3, or ai_gateway v0.5.0",
        f"{_AI_GATEWAY} at v1.1.0",
    ),
    Rule(
        "envoy-gateway-1.9",
        ("ai_gateway", "envoy_gateway"),
        lambda v: not _below("envoy_gateway", "1.9")(v),
        "Envoy Gateway 1.9 renames what extension servers such as Envoy AI Gateway (built on 1.8.1) rely on",
        "use envoy_gateway v1.7.5",
        "envoyproxy/gateway release notes of v1.9.0; envoyproxy/ai-gateway go.mod at v1.1.0",
    ),
    Rule(
        "ai-gateway-oldest",
        ("ai_gateway",),
        _below("ai_gateway", "0.5"),
        "this collection's routes need Envoy AI Gateway 0.5 or newer (InferencePool v1)",
        "use ai_gateway v0.5.0",
        "envoyproxy/ai-gateway go.mod at v0.4.0",
    ),
    Rule(
        "envoy-gateway-fixes",
        ("envoy_gateway",),
        _below("envoy_gateway", "1.7.4"),
        "Envoy Gateway before 1.7.4 lacks the fixes of GHSA-fcrp-7gc2-93g7 and GHSA-8fv2, which this platform needs",
        "use envoy_gateway v1.7.5",
        "envoyproxy/gateway release notes of v1.7.4",
    ),
    Rule(
        "gateway-api-1.4",
        ("envoy_gateway", "gateway_api"),
        _when("envoy_gateway", "1.6", "1.8", _outside("gateway_api", "1.4", "1.5")),
        "Envoy Gateway 1.6 and 1.7 need Gateway API 1.4",
        "use gateway_api v1.4.1",
        _ENVOY_GATEWAY,
    ),
    Rule(
        "gateway-api-1.5",
        ("envoy_gateway", "gateway_api"),
        _when("envoy_gateway", "1.8", "1.9", _outside("gateway_api", "1.5", "1.6")),
        "Envoy Gateway 1.8 needs Gateway API 1.5",
        "use gateway_api v1.5.1",
        _ENVOY_GATEWAY,
    ),
    Rule(
        "kubernetes-ai-gateway",
        ("ai_gateway", "kubernetes"),
        _below("kubernetes", "1.32"),
        "Envoy AI Gateway needs Kubernetes 1.32 or newer",
        "use a channel such as 1.34/stable",
        f"{_AI_GATEWAY} at v0.6.0",
    ),
    Rule(
        "kubernetes-envoy-gateway",
        ("envoy_gateway", "kubernetes"),
        _when("envoy_gateway", "1.7", "1.9", _outside("kubernetes", "1.32", "1.36")),
        "Envoy Gateway 1.7 and 1.8 are tested with Kubernetes 1.32 to 1.35",
        "use a channel such as 1.34/stable",
        _ENVOY_GATEWAY,
    ),
    Rule(
        "kubernetes-envoy-gateway-1.6",
        ("envoy_gateway", "kubernetes"),
        _when("envoy_gateway", "1.6", "1.7", _outside("kubernetes", "1.30", "1.34")),
        "Envoy Gateway 1.6 is tested with Kubernetes 1.30 to 1.33",
        "use a channel such as 1.33/stable, or the release 2026.07",
        _ENVOY_GATEWAY,
    ),
    Rule(
        "kuadrant-hangs",
        ("kuadrant_operator",),
        _below("kuadrant_operator", "1.4.3"),
        "Kuadrant before 1.4.3 can hang on answers that it counts tokens of",
        "use kuadrant_operator 1.5.2",
        "Kuadrant/wasm-shim v0.12.3, released with Kuadrant/kuadrant-operator v1.4.3",
    ),
    Rule(
        "kuadrant-envoy-gateway",
        ("kuadrant_operator", "envoy_gateway"),
        lambda v: _below("kuadrant_operator", "1.5")(v) and not _below("envoy_gateway", "1.6")(v),
        "Kuadrant before 1.5 is not tested with Envoy Gateway 1.6 or newer",
        "use kuadrant_operator 1.5.2",
        "Kuadrant/kuadrant-operator make/envoy-gateway.mk at v1.4.3 and v1.5.2",
    ),
    Rule(
        "kuadrant-envoy-gateway-new",
        ("kuadrant_operator", "envoy_gateway"),
        lambda v: _below("kuadrant_operator", "1.6")(v) and not _below("envoy_gateway", "1.8")(v),
        "Kuadrant 1.5 is tested with Envoy Gateway 1.7, not with newer ones",
        "use envoy_gateway v1.7.5",
        "Kuadrant/kuadrant-operator make/envoy-gateway.mk at v1.5.2",
    ),
    Rule(
        "inferencepool-extension",
        ("inferencepool", "inference_extension"),
        lambda v: version_key(v["inferencepool"])[:2] != version_key(v["inference_extension"])[:2],
        "the inferencepool chart and the CRDs of the inference extension come from different minor releases",
        "give both the same version",
        "kubernetes-sigs/gateway-api-inference-extension config/charts/inferencepool",
    ),
    Rule(
        "inferencepool-values",
        ("inferencepool",),
        _outside("inferencepool", "1.3", "1.6"),
        "before 1.3 the chart's values have another shape, and from 1.6 on there is no chart any more",
        "use inferencepool v1.3.0",
        "kubernetes-sigs/gateway-api-inference-extension config/charts/inferencepool at v1.2.0, v1.5.0 and v1.6.0",
    ),
    Rule(
        "modelservice-strategy",
        ("modelservice",),
        _below("modelservice", "0.4.11"),
        "llm-d-modelservice before 0.4.11 ignores decode.strategy: a changed worker would wait for a second GPU",
        "use modelservice v0.4.11",
        "llm-d-incubation/llm-d-modelservice charts/llm-d-modelservice/templates/decode-deployment.yaml at v0.4.11",
    ),
    Rule(
        "helm-4",
        ("helm",),
        lambda v: not _below("helm", "4")(v),
        "kubernetes.core 6 does not work with Helm 4",
        "use helm v3.19.5",
        "ansible-collections/kubernetes.core CHANGELOG.rst, 6.3.0 and 6.4.0",
    ),
    Rule(
        "helmfile-helm",
        ("helmfile", "helm"),
        lambda v: not _below("helmfile", "1.2")(v) and _below("helm", "3.18.6")(v),
        "helmfile 1.2 and newer need Helm 3.18.6 or newer",
        "use helm v3.19.5",
        "helmfile/helmfile pkg/app/init.go at v1.2.0",
    ),
    Rule(
        "helmfile-templates",
        ("helmfile",),
        _below("helmfile", "1.0"),
        "helmfile before 1.0 renders plain YAML files as templates",
        "use helmfile v1.8.0",
        "helmfile/helmfile docs/proposals/towards-1.0.md",
    ),
)


def broken_rules(versions: Versions) -> list[Rule]:
    """The rules that a choice of versions breaks."""
    return [rule for rule in RULES if rule.broken(versions)]


def strained(rule: Rule, release: Release, overrides: Versions) -> bool:
    """Whether the set itself is known to break the rule, and nobody has chosen a version that matters to it."""
    return rule.id in release.strains and not set(rule.components) & set(overrides)


def kubernetes_minor(channel: str) -> str:
    """``1.34/stable`` as ``1.34``."""
    return channel.split("/", maxsplit=1)[0].removesuffix("-strict")
