# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Release sets: which versions belong together, and which must not meet. Private to the collection.

A set is one coherent choice. A single version may be overridden with tokenlabs_versions; the rules below then say
whether the mixture is one that upstream documents, one that nobody has tested, or one that is known to break.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

DEFAULT_RELEASE = "2026.07"
ARCHITECTURES = ("amd64", "arm64")


@dataclass(frozen=True)
class Chart:
    """A chart: in an OCI registry (``oci://``) or in a classic repository; ``component`` names its version."""

    repository: str
    name: str
    component: str
    origin: str


@dataclass(frozen=True)
class Manifest:
    """One YAML file that upstream publishes with a release."""

    url: str
    origin: str
    sha256: str | None = None


@dataclass(frozen=True)
class Download:
    """A program for the controller; ``checksums`` is the file with its sha256 that upstream publishes beside it."""

    url: str
    checksums: str
    origin: str
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """One set."""

    name: str
    kubernetes_channel: str
    versions: Mapping[str, str]
    charts: Mapping[str, Chart]
    manifests: Mapping[str, Manifest]
    downloads: Mapping[str, Download]
    images: Mapping[str, str]


_CHARTS = {
    # project, path in its repository; the tag is the component's version
    "gpu_operator": Chart(
        "https://helm.ngc.nvidia.com/nvidia",
        "gpu-operator",
        "gpu_operator",
        "NVIDIA/gpu-operator deployments/gpu-operator",
    ),
    "ai_gateway_crds": Chart(
        "oci://docker.io/envoyproxy",
        "ai-gateway-crds-helm",
        "ai_gateway",
        "envoyproxy/ai-gateway manifests/charts/ai-gateway-crds-helm",
    ),
    "ai_gateway": Chart(
        "oci://docker.io/envoyproxy",
        "ai-gateway-helm",
        "ai_gateway",
        "envoyproxy/ai-gateway manifests/charts/ai-gateway-helm",
    ),
    "envoy_gateway_crds": Chart(
        "oci://docker.io/envoyproxy",
        "gateway-crds-helm",
        "envoy_gateway",
        "envoyproxy/gateway charts/gateway-crds-helm",
    ),
    "envoy_gateway": Chart(
        "oci://docker.io/envoyproxy",
        "gateway-helm",
        "envoy_gateway",
        "envoyproxy/gateway charts/gateway-helm",
    ),
    "kuadrant_operator": Chart(
        "https://kuadrant.io/helm-charts/",
        "kuadrant-operator",
        "kuadrant_operator",
        "Kuadrant/helm-charts charts/kuadrant-operator-VERSION.tgz",
    ),
    "inferencepool": Chart(
        "oci://registry.k8s.io/gateway-api-inference-extension/charts",
        "inferencepool",
        "inferencepool",
        "kubernetes-sigs/gateway-api-inference-extension config/charts/inferencepool",
    ),
    "modelservice": Chart(
        "https://llm-d-incubation.github.io/llm-d-modelservice/",
        "llm-d-modelservice",
        "modelservice",
        "llm-d-incubation/llm-d-modelservice charts/llm-d-modelservice",
    ),
}

_MANIFESTS = {
    "gateway_api": Manifest(
        "https://github.com/kubernetes-sigs/gateway-api/releases/download/{version}/standard-install.yaml",
        "kubernetes-sigs/gateway-api release asset",
    ),
    "inference_extension": Manifest(
        "https://github.com/kubernetes-sigs/gateway-api-inference-extension/releases/download/{version}/manifests.yaml",
        "kubernetes-sigs/gateway-api-inference-extension release asset",
    ),
}

RELEASES: dict[str, Release] = {
    "2026.07": Release(
        name="2026.07",
        kubernetes_channel="1.34/stable",
        versions={
            "gpu_operator": "v25.10.1",
            "ai_gateway": "v0.5.0",
            "envoy_gateway": "v1.7.5",
            "kuadrant_operator": "1.5.2",
            "inferencepool": "v1.3.0",
            "modelservice": "v0.4.11",
            "gateway_api": "v1.4.1",
            "inference_extension": "v1.3.0",
            "helm": "v3.19.5",
            "helm_diff": "v3.9.14",
            "helmfile": "v1.8.0",
        },
        charts=_CHARTS,
        manifests=_MANIFESTS,
        downloads={
            "helm": Download(
                "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz",
                "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz.sha256sum",
                "helm/helm release v3.19.5, release notes",
                {
                    "amd64": "a0a5e8c592ed3f376ac110715eff214730c7422f9a44d96cf98117d2b8b0e6c0",
                    "arm64": "ce02147ffee6d993bf8ae97a44a22e9e1daf0b69d2d5b69a0c8cf6706445ccf5",
                },
            ),
            "helm_diff": Download(
                "https://github.com/databus23/helm-diff/releases/download/{version}/helm-diff-linux-{arch}.tgz",
                "https://github.com/databus23/helm-diff/releases/download/{version}/helm-diff_{number}_checksums.txt",
                "databus23/helm-diff release v3.9.14, .goreleaser.yml",
            ),
            "helmfile": Download(
                "https://github.com/helmfile/helmfile/releases/download/{version}/helmfile_{number}_linux_{arch}.tar.gz",
                "https://github.com/helmfile/helmfile/releases/download/{version}/helmfile_{number}_checksums.txt",
                "helmfile/helmfile release v1.8.0, .goreleaser.yml",
            ),
        },
        images={
            # docker-library/redis 7.4, alpine
            "redis": "docker.io/library/redis:7.4.1-alpine",
            # llm-d/llm-d-inference-scheduler v0.5.0: built for amd64 and arm64, embeds the picker of GIE v1.3.0
            "epp": "ghcr.io/llm-d/llm-d-inference-scheduler:v0.5.0",
        },
    ),
}


def version_key(version: str) -> tuple[int, ...]:
    """``v1.7.0-rc.0`` as ``(1, 7, 0)``: a pre-release counts as the version it leads to."""
    return tuple(int(number) for number in re.findall(r"[0-9]+", version.split("-")[0])[:3])


Versions = Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """A combination that must not be. ``known`` means it is known to break; otherwise nobody has tested it."""

    components: tuple[str, ...]
    broken: Callable[[Versions], bool]
    reason: str
    remedy: str
    source: str
    known: bool = True


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
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.5", "0.6", _below("envoy_gateway", "1.6")),
        "Envoy AI Gateway 0.5 needs Envoy Gateway 1.6 or newer",
        "use envoy_gateway v1.7.5",
        f"{_AI_GATEWAY} at v0.6.0",
    ),
    Rule(
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.5", "0.7", lambda v: not _below("envoy_gateway", "1.8")(v)),
        "Envoy AI Gateway 0.5 and 0.6 are built on Envoy Gateway 1.7 and not tested with newer ones",
        "use envoy_gateway v1.7.5",
        "envoyproxy/ai-gateway go.mod at v0.5.0 and v0.6.0",
        known=False,
    ),
    Rule(
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.6", "0.7", _below("envoy_gateway", "1.7")),
        "Envoy AI Gateway 0.6 needs Envoy Gateway 1.7 or newer",
        "use envoy_gateway v1.7.5",
        f"{_AI_GATEWAY} at v0.7.0",
    ),
    Rule(
        ("ai_gateway", "envoy_gateway"),
        _when("ai_gateway", "0.7", "99", _below("envoy_gateway", "1.8")),
        "Envoy AI Gateway 0.7 and newer need Envoy Gateway 1.8 or newer",
        "use envoy_gateway v1.8.3, or ai_gateway v0.5.0",
        f"{_AI_GATEWAY} at v1.1.0",
    ),
    Rule(
        ("ai_gateway", "envoy_gateway"),
        lambda v: not _below("envoy_gateway", "1.9")(v),
        "Envoy Gateway 1.9 renames what extension servers such as Envoy AI Gateway (built on 1.8.1) rely on",
        "use envoy_gateway v1.7.5",
        "envoyproxy/gateway release notes of v1.9.0; envoyproxy/ai-gateway go.mod at v1.1.0",
    ),
    Rule(
        ("ai_gateway",),
        _below("ai_gateway", "0.5"),
        "this collection's routes need Envoy AI Gateway 0.5 or newer (InferencePool v1)",
        "use ai_gateway v0.5.0",
        "envoyproxy/ai-gateway go.mod at v0.4.0",
    ),
    Rule(
        ("envoy_gateway",),
        _below("envoy_gateway", "1.7.4"),
        "Envoy Gateway before 1.7.4 lacks the fixes of GHSA-fcrp-7gc2-93g7 and GHSA-8fv2, which this platform needs",
        "use envoy_gateway v1.7.5",
        "envoyproxy/gateway release notes of v1.7.4",
    ),
    Rule(
        ("envoy_gateway", "gateway_api"),
        _when("envoy_gateway", "1.6", "1.8", _outside("gateway_api", "1.4", "1.5")),
        "Envoy Gateway 1.6 and 1.7 need Gateway API 1.4",
        "use gateway_api v1.4.1",
        _ENVOY_GATEWAY,
    ),
    Rule(
        ("envoy_gateway", "gateway_api"),
        _when("envoy_gateway", "1.8", "1.9", _outside("gateway_api", "1.5", "1.6")),
        "Envoy Gateway 1.8 needs Gateway API 1.5",
        "use gateway_api v1.5.1",
        _ENVOY_GATEWAY,
    ),
    Rule(
        ("envoy_gateway", "kubernetes"),
        _when("envoy_gateway", "1.7", "1.9", _outside("kubernetes", "1.32", "1.36")),
        "Envoy Gateway 1.7 and 1.8 are tested with Kubernetes 1.32 to 1.35",
        "use a channel such as 1.34/stable",
        _ENVOY_GATEWAY,
        known=False,
    ),
    Rule(
        ("ai_gateway", "kubernetes"),
        _below("kubernetes", "1.32"),
        "Envoy AI Gateway needs Kubernetes 1.32 or newer",
        "use a channel such as 1.34/stable",
        f"{_AI_GATEWAY} at v0.6.0",
    ),
    Rule(
        ("kuadrant_operator",),
        _below("kuadrant_operator", "1.4.3"),
        "Kuadrant before 1.4.3 can hang on answers that it counts tokens of",
        "use kuadrant_operator 1.5.2",
        "Kuadrant/wasm-shim v0.12.3, released with Kuadrant/kuadrant-operator v1.4.3",
    ),
    Rule(
        ("kuadrant_operator", "envoy_gateway"),
        lambda v: _below("kuadrant_operator", "1.5")(v) and not _below("envoy_gateway", "1.6")(v),
        "Kuadrant before 1.5 is not tested with Envoy Gateway 1.6 or newer",
        "use kuadrant_operator 1.5.2",
        "Kuadrant/kuadrant-operator make/envoy-gateway.mk at v1.4.3 and v1.5.2",
        known=False,
    ),
    Rule(
        ("inferencepool", "inference_extension"),
        lambda v: version_key(v["inferencepool"])[:2] != version_key(v["inference_extension"])[:2],
        "the inferencepool chart and the CRDs of the inference extension come from different minor releases",
        "give both the same version",
        "kubernetes-sigs/gateway-api-inference-extension config/charts/inferencepool",
        known=False,
    ),
    Rule(
        ("inferencepool",),
        _outside("inferencepool", "1.3", "1.5"),
        "the chart's values have another shape (before 1.3, and from 1.5 on: image.registry, sub-chart epplib)",
        "use inferencepool v1.3.0",
        "kubernetes-sigs/gateway-api-inference-extension config/charts/inferencepool/values.yaml at v1.5.0",
    ),
    Rule(
        ("modelservice",),
        _below("modelservice", "0.4.11"),
        "llm-d-modelservice before 0.4.11 ignores decode.strategy: a changed worker would wait for a second GPU",
        "use modelservice v0.4.11",
        "llm-d-incubation/llm-d-modelservice charts/llm-d-modelservice/templates/decode-deployment.yaml at v0.4.11",
    ),
    Rule(
        ("helm",),
        lambda v: not _below("helm", "4")(v),
        "kubernetes.core 6 does not work with Helm 4",
        "use helm v3.19.5",
        "ansible-collections/kubernetes.core CHANGELOG.rst, 6.3.0 and 6.4.0",
    ),
    Rule(
        ("helmfile", "helm"),
        lambda v: not _below("helmfile", "1.2")(v) and _below("helm", "3.18.6")(v),
        "helmfile 1.2 and newer need Helm 3.18.6 or newer",
        "use helm v3.19.5",
        "helmfile/helmfile pkg/app/init.go at v1.2.0",
    ),
    Rule(
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


def kubernetes_minor(channel: str) -> str:
    """``1.34/stable`` as ``1.34``."""
    return channel.split("/", maxsplit=1)[0].removesuffix("-strict")
