# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The release sets, as data alone: literals, nothing imported, nothing computed. Private to the collection.

Every line of a set comes from a project at a tag: ORIGINS says which project, which tag belongs to a version, and the
path of the file there that says what the version is. _releases.py holds the rules and reads this file.
"""

# What a component is and where upstream keeps it: project, tag, path.
ORIGINS = {
    "gpu_operator": {
        "project": "NVIDIA/gpu-operator",
        "tag": "{version}",
        "path": "deployments/gpu-operator/Chart.yaml",
    },
    "ai_gateway": {
        "project": "envoyproxy/ai-gateway",
        "tag": "{version}",
        "path": "manifests/charts/ai-gateway-helm/Chart.yaml",
    },
    "envoy_gateway": {
        "project": "envoyproxy/gateway",
        "tag": "{version}",
        "path": "charts/gateway-helm/Chart.yaml",
    },
    "kuadrant_operator": {
        "project": "Kuadrant/helm-charts",
        "tag": "main",
        "path": "charts/kuadrant-operator-{version}.tgz",
    },
    "inferencepool": {
        "project": "kubernetes-sigs/gateway-api-inference-extension",
        "tag": "{version}",
        "path": "config/charts/inferencepool/Chart.yaml",
    },
    "modelservice": {
        "project": "llm-d-incubation/llm-d-modelservice",
        "tag": "llm-d-modelservice-{version}",
        "path": "charts/llm-d-modelservice/Chart.yaml",
    },
    "kube_prometheus_stack": {
        "project": "prometheus-community/helm-charts",
        "tag": "kube-prometheus-stack-{version}",
        "path": "charts/kube-prometheus-stack/Chart.yaml",
    },
    "prometheus_adapter": {
        "project": "prometheus-community/helm-charts",
        "tag": "prometheus-adapter-{version}",
        "path": "charts/prometheus-adapter/Chart.yaml",
    },
    "gateway_api": {
        "project": "kubernetes-sigs/gateway-api",
        "tag": "{version}",
        "path": "config/crd/standard",
    },
    "inference_extension": {
        "project": "kubernetes-sigs/gateway-api-inference-extension",
        "tag": "{version}",
        "path": "config/crd/kustomization.yaml",
    },
    "helm": {"project": "helm/helm", "tag": "{version}", "path": "release notes"},
    "helm_diff": {"project": "databus23/helm-diff", "tag": "{version}", "path": ".goreleaser.yml"},
    "helmfile": {"project": "helmfile/helmfile", "tag": "{version}", "path": ".goreleaser.yml"},
    "redis": {"project": "docker-library/redis", "tag": "7.4", "path": "7.4/alpine/Dockerfile"},
    # Built for amd64 and arm64, unlike the picker of the inference extension itself; it embeds that one.
    "epp": {"project": "llm-d/llm-d-inference-scheduler", "tag": "{version}", "path": "go.mod"},
}

# Where charts are published: in an OCI registry (oci://) or in a classic repository; the component names the version.
# llm-d-infra is none of them: all that it has is a Gateway, and with a Gateway of one's own it renders no object
# (llm-d-incubation/llm-d-infra v1.3.6 charts/llm-d-infra/templates).
CHARTS = {
    "gpu_operator": {
        "repository": "https://helm.ngc.nvidia.com/nvidia",
        "name": "gpu-operator",
        "component": "gpu_operator",
    },
    "ai_gateway_crds": {
        "repository": "oci://docker.io/envoyproxy",
        "name": "ai-gateway-crds-helm",
        "component": "ai_gateway",
    },
    "ai_gateway": {
        "repository": "oci://docker.io/envoyproxy",
        "name": "ai-gateway-helm",
        "component": "ai_gateway",
    },
    "envoy_gateway_crds": {
        "repository": "oci://docker.io/envoyproxy",
        "name": "gateway-crds-helm",
        "component": "envoy_gateway",
    },
    "envoy_gateway": {
        "repository": "oci://docker.io/envoyproxy",
        "name": "gateway-helm",
        "component": "envoy_gateway",
    },
    "kuadrant_operator": {
        "repository": "https://kuadrant.io/helm-charts/",
        "name": "kuadrant-operator",
        "component": "kuadrant_operator",
    },
    "inferencepool": {
        "repository": "oci://registry.k8s.io/gateway-api-inference-extension/charts",
        "name": "inferencepool",
        "component": "inferencepool",
    },
    "modelservice": {
        "repository": "https://llm-d-incubation.github.io/llm-d-modelservice/",
        "name": "llm-d-modelservice",
        "component": "modelservice",
    },
    "kube_prometheus_stack": {
        "repository": "https://prometheus-community.github.io/helm-charts",
        "name": "kube-prometheus-stack",
        "component": "kube_prometheus_stack",
    },
    "prometheus_adapter": {
        "repository": "https://prometheus-community.github.io/helm-charts",
        "name": "prometheus-adapter",
        "component": "prometheus_adapter",
    },
}

# YAML files that upstream publishes with a release.
MANIFESTS = {
    "gateway_api": ("https://github.com/kubernetes-sigs/gateway-api/releases/download/{version}/standard-install.yaml"),
    "inference_extension": (
        "https://github.com/kubernetes-sigs/gateway-api-inference-extension/releases/download/{version}/manifests.yaml"
    ),
}

# Programs for the controller, each with the file of checksums that upstream publishes beside it.
DOWNLOADS = {
    "helm": {
        "url": "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz",
        "checksums": "https://get.helm.sh/helm-{version}-linux-{arch}.tar.gz.sha256sum",
    },
    "helm_diff": {
        "url": "https://github.com/databus23/helm-diff/releases/download/{version}/helm-diff-linux-{arch}.tgz",
        "checksums": (
            "https://github.com/databus23/helm-diff/releases/download/{version}/helm-diff_{number}_checksums.txt"
        ),
    },
    "helmfile": {
        "url": (
            "https://github.com/helmfile/helmfile/releases/download/{version}/helmfile_{number}_linux_{arch}.tar.gz"
        ),
        "checksums": (
            "https://github.com/helmfile/helmfile/releases/download/{version}/helmfile_{number}_checksums.txt"
        ),
    },
}

# SHA-256 of what is published, where upstream says it: component, version, architecture (noarch for charts).
CHECKSUMS = {
    # helm/helm, release notes of v3.19.5
    "helm": {
        "v3.19.5": {
            "amd64": "a0a5e8c592ed3f376ac110715eff214730c7422f9a44d96cf98117d2b8b0e6c0",
            "arm64": "ce02147ffee6d993bf8ae97a44a22e9e1daf0b69d2d5b69a0c8cf6706445ccf5",
        },
    },
    # Kuadrant/helm-charts charts/index.yaml at b2e65da, equal to the files beside it
    "kuadrant_operator": {
        "1.4.3": {"noarch": "7dd7dca54d36c280d5ba31d774022a1c35eb9e34c635885e76bab8e00a9b5122"},
        "1.5.2": {"noarch": "08ec9696ea3b38b5a00373c3a09e2c6478fa9f9ba4b489eb32bf66c33e4beade"},
    },
    # llm-d-incubation/llm-d-modelservice index.yaml on gh-pages
    "modelservice": {
        "v0.4.11": {"noarch": "977eeaf564560ff5f35ccabb342c21310606d1e048bc25b3fcdb310fa3595171"},
        "v0.4.12": {"noarch": "fff9e201d902b2ef78a71b73a4c30f2d868d76422a32bcc96e745a36f56daa92"},
    },
}

# The tools on the controller are the same for all sets.
_TOOLS = {"helm": "v3.19.5", "helm_diff": "v3.9.14", "helmfile": "v1.8.0"}
# Neither depends on what else is installed.
_MONITORING = {"kube_prometheus_stack": "88.5.3", "prometheus_adapter": "4.11.0"}

# `strains` names the rules of _releases.py that a set breaks by itself, with what it costs: they warn, and refuse
# nothing.
SETS = {
    # Least change to an installation with Envoy Gateway 1.6 and Kuadrant 1.4. Kubernetes: envoyproxy/gateway v1.8.3
    # site/content/en/news/releases/matrix.md (1.30 to 1.33) and envoyproxy/ai-gateway v0.6.0
    # site/docs/compatibility.md.
    "2026.04": {
        "kubernetes": {"channel": "1.33/stable", "oldest": "1.32", "newest": "1.33"},
        "versions": {
            "gpu_operator": "v25.10.1",
            "ai_gateway": "v0.5.0",
            "envoy_gateway": "v1.6.7",
            "kuadrant_operator": "1.4.3",
            "inferencepool": "v1.3.0",
            "modelservice": "v0.4.11",
            "gateway_api": "v1.4.1",
            "inference_extension": "v1.3.0",
            **_MONITORING,
            **_TOOLS,
        },
        "images": {
            "redis": "docker.io/library/redis:7.4.1-alpine",
            "epp": "ghcr.io/llm-d/llm-d-inference-scheduler:v0.5.0",
        },
        "strains": {
            "envoy-gateway-fixes": "it is the last of its line, which has ended on 2026-05-13",
            "kuadrant-envoy-gateway": "it is Kuadrant's newest chart of its line",
        },
    },
    # Kubernetes: the same matrix, Envoy Gateway 1.7. Kuadrant 1.5 is tested with Envoy Gateway 1.7 and Gateway API
    # 1.4.1 (Kuadrant/kuadrant-operator v1.5.2 make/envoy-gateway.mk, config/dependencies/gateway-api).
    "2026.07": {
        "kubernetes": {"channel": "1.34/stable", "oldest": "1.32", "newest": "1.35"},
        "versions": {
            "gpu_operator": "v25.10.1",
            "ai_gateway": "v0.5.0",
            "envoy_gateway": "v1.7.5",
            "kuadrant_operator": "1.5.2",
            "inferencepool": "v1.3.0",
            "modelservice": "v0.4.11",
            "gateway_api": "v1.4.1",
            "inference_extension": "v1.3.0",
            **_MONITORING,
            **_TOOLS,
        },
        "images": {
            "redis": "docker.io/library/redis:7.4.1-alpine",
            "epp": "ghcr.io/llm-d/llm-d-inference-scheduler:v0.5.0",
        },
        "strains": {},
    },
    # The newest that fits together: Envoy Gateway 1.9 renames what Envoy AI Gateway 1.1 relies on, and 1.6 of the
    # inference extension has no charts any more. Kubernetes: the same matrix, Envoy Gateway 1.8.
    "2026.08": {
        "kubernetes": {"channel": "1.34/stable", "oldest": "1.32", "newest": "1.35"},
        "versions": {
            "gpu_operator": "v25.10.1",
            "ai_gateway": "v1.1.0",
            "envoy_gateway": "v1.8.3",
            "kuadrant_operator": "1.5.2",
            "inferencepool": "v1.5.0",
            "modelservice": "v0.4.12",
            "gateway_api": "v1.5.1",
            "inference_extension": "v1.5.0",
            **_MONITORING,
            **_TOOLS,
        },
        "images": {
            "redis": "docker.io/library/redis:7.4.1-alpine",
            "epp": "ghcr.io/llm-d/llm-d-inference-scheduler:v0.8.0",
        },
        "strains": {
            "kuadrant-envoy-gateway-new": "Kuadrant has no newer release yet",
        },
    },
}
