# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every variable that an inventory may set, and its form. Private to the collection."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._gateway import SETTINGS
from ansible_collections.tokenlabs.platform.plugins.module_utils._limits import MAXIMUM, WindowError, window_seconds
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import (
    ARCHITECTURES,
    CHARTS,
    DEFAULT_RELEASE,
    DOWNLOADS,
    MANIFESTS,
    RELEASES,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import (
    Flag,
    Items,
    Number,
    Path,
    Record,
    Report,
    Table,
    Text,
    did_you_mean,
    kind_of,
    path_text,
    quoted,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import (
    LABEL,
    LABEL_FORM,
    TENANT,
    Share,
    Span,
)

# Longest name of a model: "pool-" + name must fit into the 40 characters after which the inferencepool chart cuts.
MODEL_NAME_LIMIT = 35
POOL_NAME_LIMIT = 40
# Helm takes no longer name of a release.
WORKER_NAME_LIMIT = 53
# An HTTPRoute has at most 16 rules, and the AI gateway adds one to those of the models.
MODEL_LIMIT = 15
# With this, the list of all models fits into the 4096 bytes that Envoy answers by itself.
PUBLIC_NAME_LIMIT = 128
# The CRD of BackendTrafficPolicy takes no more rules.
TOKEN_RULE_LIMIT = 128

_QUANTITY = Text(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?", "a quantity such as 500m, 4 or 32Gi")
_IMAGE = re.compile(
    r"(?P<name>[a-z0-9]+([._-][a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|SECRET|API_?KEY|CREDENTIAL)", re.IGNORECASE)
_ITS_PORT = "the platform chooses it"
_NO_KEY = "the gateway checks keys, and an argument is readable by everyone on the host"
# Arguments that the platform sets itself, for each engine; a custom one's are its owner's.
OWN_ARGUMENTS: dict[str, dict[str, str]] = {
    "vllm": {
        "--model": "it comes from `model`",
        "--served-model-name": "it comes from `served_name`",
        "--port": _ITS_PORT,
        "--host": _ITS_PORT,
        "--tensor-parallel-size": "it comes from `gpus`",
        "--gpu-memory-utilization": "it comes from `memory_fraction`",
        "--enable-auto-tool-choice": "it comes with `tool_parser`",
        "--tool-call-parser": "it comes from `tool_parser`",
        "--enable-force-include-usage": "the platform always sets it, so that every token is counted",
        "--api-key": _NO_KEY,
    },
    "sglang": {
        "--model-path": "it comes from `model`",
        "--model": "it comes from `model`",
        "--served-model-name": "it comes from `served_name`",
        "--port": _ITS_PORT,
        "--host": _ITS_PORT,
        "--tp": "it comes from `gpus`",
        "--tp-size": "it comes from `gpus`",
        "--tensor-parallel-size": "it comes from `gpus`",
        "--mem-fraction-static": "it comes from `memory_fraction`",
        "--tool-call-parser": "it comes from `tool_parser`",
        "--enable-metrics": "the platform always sets it, for the endpoint picker",
        "--api-key": _NO_KEY,
    },
    "trtllm": {
        "--port": _ITS_PORT,
        "--host": _ITS_PORT,
        "--tp-size": "it comes from `gpus`",
        "--extra-llm-api-options": "the platform sets it for the metrics; with other options use the engine custom",
    },
    "sim": {
        "--model": "it comes from `model`",
        "--served-model-name": "it comes from `served_name`",
        "--port": _ITS_PORT,
    },
    "custom": {},
}

# Flags of the kubelet that are set in another way.
OWN_KUBELET_FLAGS = {
    "--node-ip": "set tokenlabs_cluster_address",
    "--node-labels": "set tokenlabs_node_labels",
    "--register-with-taints": "set tokenlabs_node_taints",
    "--hostname-override": "nodes go by their host names",
    "--fail-swap-on": "swap is turned off",
    **dict.fromkeys(
        (
            "--anonymous-auth",
            "--authentication-token-webhook",
            "--cert-dir",
            "--client-ca-file",
            "--cluster-dns",
            "--cluster-domain",
            "--container-runtime-endpoint",
            "--containerd",
            "--kubeconfig",
            "--root-dir",
        ),
        "MicroK8s sets it",
    ),
}

ENGINES = tuple(OWN_ARGUMENTS)
# Engines that can be told to call tools, and those whose command and promises are the inventory's own.
TOOL_ENGINES = ("vllm", "sglang")
UNFORCED_ENGINES = ("sglang", "trtllm", "custom")
# Hugging Face lets nobody download these without an account that was granted access.
GATED = ("meta-llama/",)
# Whose Prometheus reads the platform: nobody's, one of ours, or one that is there already.
PROMETHEUS = ("none", "stack", "existing")

# MicroK8s' own: kube-proxy's --cluster-cidr and kube-apiserver's --service-cluster-ip-range
# (canonical/microk8s microk8s-resources/default-args at v1.35).
NETWORKS = {"pods": "10.1.0.0/16", "services": "10.152.183.0/24"}
# What listens on nodes (canonical/microk8s docs/services-and-ports, default-args at v1.35).
HOST_PORTS = {
    10250: "the kubelet",
    10257: "the controller-manager",
    10259: "the scheduler",
    16443: "the API server",
    19001: "the datastore",
    25000: "the cluster agent",
}
# A node of somebody else's cluster, or the machine that helm runs on.
NODE = r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"
# What says how MicroK8s and its nodes are set up.
ONLY_MICROK8S = (
    "tokenlabs_microk8s_channel",
    "tokenlabs_loadbalancer_range",
    "tokenlabs_gpu_toolkit",
    "tokenlabs_gpu_cdi",
    "tokenlabs_kubelet_args",
    "tokenlabs_node_labels",
    "tokenlabs_controller_is_spark",
)
# Words of Ansible and this collection's groups, which cannot be hosts at the same time.
RESERVED_HOSTS = ("all", "controllers", "localhost", "sparks", "ungrouped")
# Where other parts live.
RESERVED_NAMESPACES = (
    "default",
    "envoy-ai-gateway-system",
    "envoy-gateway-system",
    "gpu-operator",
    "kuadrant-system",
    "metallb-system",
    "redis-system",
)
# Labels of a node that somebody else sets, by a pattern of their names.
OWNED_LABELS = {
    r"(beta\.)?kubernetes\.io/(hostname|arch|os)": "its kubelet",
    r"microk8s\.io/.+|node\.kubernetes\.io/microk8s-.+": "MicroK8s",
    r"nvidia\.com/device-plugin\.config": "this platform, from tokenlabs_gpu_slots",
    r"nvidia\.com/(?!gpu\.deploy\.).+|feature\.node\.kubernetes\.io/.+": "the GPU operator",
    r"tokenlabs\.io/.+": "this platform",
}
# Labels under names of Kubernetes' own that are for its users (kubernetes/kubernetes staging/src/k8s.io/api/core/v1/
# well_known_labels.go at v1.34).
KNOWN_LABELS = (
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "node.kubernetes.io/instance-type",
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/worker",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
)


@dataclass(frozen=True)
class Image:
    """A container image that is pinned by a tag other than latest, or by digest."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not Text().check(value, path, report):
            return False
        match = _IMAGE.fullmatch(value)
        if not match:
            report(
                path,
                f"is {quoted(value)}, not an image",
                "write registry/name:tag, such as ghcr.io/llm-d/llm-d-cuda:v0.5.0",
            )
        elif not match["tag"] and not match["digest"]:
            report(path, "has neither tag nor digest, which means latest", "add the tag of a version, or a digest")
        elif match["tag"] == "latest" and not match["digest"]:
            report(
                path, "has the tag latest, which changes without notice", "write the tag of a version, or add a digest"
            )
        else:
            return True
        return False


@dataclass(frozen=True)
class KubeletFlag:
    """The name of a kubelet flag that an inventory may set."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not Text(r"--[a-z][a-z0-9-]*", "a flag with its dashes, such as --max-pods").check(value, path, report):
            return False
        if value in OWN_KUBELET_FLAGS:
            report(path, "must not be set", OWN_KUBELET_FLAGS[value])
            return False
        return True


@dataclass(frozen=True)
class Url:
    """An address of a mirror."""

    schemes: tuple[str, ...]
    example: str

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not Text().check(value, path, report):
            return False
        scheme, separator, rest = value.partition("://")
        if "@" in rest:
            report(path, "contains a user name or password", f"write it without, such as {self.example}")
        elif not separator or scheme not in self.schemes:
            report(
                path, f"must begin with {' or '.join(f'{name}://' for name in self.schemes)}", f"write {self.example}"
            )
        elif not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*", rest):
            report(
                path,
                f"is {quoted(value)}, not an address of a mirror",
                f"write {self.example}, without a slash at the end",
            )
        else:
            return True
        return False


@dataclass(frozen=True)
class Window:
    """The key of a limit."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not isinstance(value, str):
            report(path, "is not a window", "write whole numbers with the units h, m, s, such as 1m or 24h")
            return False
        try:
            window_seconds(value)
        except WindowError as error:
            report(path, error.reason, error.remedy)
            return False
        return True


@dataclass(frozen=True)
class Fraction:
    """A part of a whole."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            report(path, f"must be a number, is {kind_of(value)}", "write a part of the whole such as 0.8")
        elif not 0 < value <= 1:
            report(path, f"is {value}", "write more than 0, and 1 at most")
        else:
            return True
        return False


@dataclass(frozen=True)
class Price:
    """An amount of money."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
            report(path, f"must be an amount of money, is {quoted(value)}", "write a number such as 0.25")
            return False
        return True


_LIMITS = Table(Window(), Number(1, MAXIMUM), filled=True, example="{1m: 10, 24h: 100}")

MODEL = Record(
    {
        "name": Text(LABEL, LABEL_FORM, longest=MODEL_NAME_LIMIT),
        "model": Text(
            r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?",
            "a model's id such as nvidia/NAME",
            longest=PUBLIC_NAME_LIMIT,
        ),
        "served_name": Text(
            r"[A-Za-z0-9][A-Za-z0-9._:/-]*", "the name that clients send as `model`", longest=PUBLIC_NAME_LIMIT
        ),
        "engine": Text(choices=ENGINES),
        "image": Image(),
        "build": Text(LABEL, "the name of one of tokenlabs_image_builds"),
        "command": Items(Text(), filled=True, example="[python3, -m, server]"),
        "args": Items(Text(), example="[--max-model-len=32768]"),
        "env": Table(Text(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable"), Text(), example="{NAME: value}"),
        "gpus": Number(0, 8),
        "replicas": Number(1, 256),
        "max_replicas": Number(2, 256),
        "memory_fraction": Fraction(),
        "cache_size": _QUANTITY,
        "resources": Record(
            {name: Record({"cpu": _QUANTITY, "memory": _QUANTITY}, what="resource") for name in ("requests", "limits")}
        ),
        "shm_size": _QUANTITY,
        "startup_seconds": Number(30, 86400),
        "grace_seconds": Number(1, 3600),
        "tool_parser": Text(r"[a-z0-9][a-z0-9_.-]*", "the name of a parser, such as hermes"),
        "vision": Flag(),
        "gated": Flag(),
        "price": Record({"input": Price(), "output": Price()}, required=("input", "output"), what="price"),
        "access": Items(Text(), filled=True, example="[pro, enterprise]"),
        "state": Text(choices=("present", "absent")),
        "picker_flags": Table(
            Text(r"[a-z][a-z-]*", "a flag without dashes in front"), Text(empty=True), example="{flag: value}"
        ),
        "forces_usage": Flag(),
        "adopt": Record(
            {
                "pool": Text(LABEL, LABEL_FORM, longest=POOL_NAME_LIMIT),
                "worker": Text(LABEL, LABEL_FORM, longest=WORKER_NAME_LIMIT),
                "label": Text(LABEL, LABEL_FORM),
            },
            what="name",
        ),
    },
    required=("name", "model"),
    hints={
        "gpu": "did you mean gpus?",
        "tag": "write it in image",
        "nodes": "name the model in the host_vars of each Spark that serves it",
        "tiers": "did you mean access?",
        "tools": "did you mean tool_parser?",
    },
)
# Text to speech on a node of its own choice.
MAGPIE_TTS = Record(
    {
        "host": Text(),
        "image": Image(),
        "build": Text(LABEL, "the name of one of tokenlabs_image_builds"),
        "access": Items(Text(), filled=True, example="[pro, enterprise]"),
        "cache_size": _QUANTITY,
        "resources": Record(
            {name: Record({"cpu": _QUANTITY, "memory": _QUANTITY}, what="resource") for name in ("requests", "limits")}
        ),
        "startup_seconds": Number(30, 86400),
    },
    required=("host",),
    what="setting",
)
# Speech to text somewhere else: NVIDIA's endpoint, or a NIM of one's own.
RIVA_STT = Record(
    {
        "host": Text(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", "a host's name or IPv4 address, without https://"),
        "port": Number(1, 65535),
        "path": Text(r"(/[A-Za-z0-9._~-]+)+", "a path such as /v1/audio/transcriptions"),
        "protocol": Text(choices=("https", "http")),
        "timeout_seconds": Number(1, 3600),
        "access": Items(Text(), filled=True, example="[pro, enterprise]"),
    },
    required=("host",),
    what="setting",
)
BUILD = Record(
    {
        "context": Text(),
        "dockerfile": Text(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", "a path within the context"),
        "args": Table(Text(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an argument"), Text(), example="{VERSION: v1}"),
        "registry": Text(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9._-]+)*", "a registry such as ghcr.io/me"),
    },
    required=("context",),
    what="setting",
)
TIER = Record(
    {
        "requests": _LIMITS,
        "tokens": _LIMITS,
        "models": Items(Text(), filled=True, example="[nemotron-llama-8b]"),
        "description": Text(),
    },
    required=("requests", "tokens"),
)
TIER_NAME = Text(
    r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", "lower-case letters, digits and dashes, at most 32, a letter first"
)


@dataclass(frozen=True)
class NodeLabels:
    """Labels of a node: Kubernetes' own names only where it knows them, and none that another part sets."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not _LABELS.check(value, path, report):
            return False
        fine = True
        for name in value:
            owner = next((owner for form, owner in OWNED_LABELS.items() if re.fullmatch(form, name)), None)
            domain = name.rpartition("/")[0]
            if owner:
                report((*path, name), f"is set by {owner}", "remove it")
            elif re.search(r"(^|\.)(kubernetes|k8s)\.io$", domain) and name not in KNOWN_LABELS:
                remedy = f"{did_you_mean(name, KNOWN_LABELS)} Labels of your own need a name of your own"
                report((*path, name), "is not a label that Kubernetes knows", remedy)
            else:
                continue
            fine = False
        return fine


@dataclass(frozen=True)
class Taints:
    """Taints of a node: each key and effect once, and none that Kubernetes sets and takes away itself."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not Items(_TAINT, example="a list of {key: ..., effect: NoSchedule}").check(value, path, report):
            return False
        fine = True
        seen: dict[tuple[str, str], int] = {}
        for index, taint in enumerate(value):
            one = (taint["key"], taint["effect"])
            if re.match(r"node(\.cloudprovider)?\.kubernetes\.io/", taint["key"]):
                report((*path, index, "key"), f"{taint['key']} is set by Kubernetes itself", "write a key of your own")
                fine = False
            elif one in seen:
                report((*path, index), f"is the same key and effect as {path_text((*path, seen[one]))}", "remove one")
                fine = False
            seen.setdefault(one, index)
        return fine


# A label may be empty: node-role.kubernetes.io/worker: "" is common.
_LABELS = Table(
    Text(
        r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", "the name of a label"
    ),
    Text(
        r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?",
        "at most 63 letters, digits and ._-, with a letter or digit at both ends",
        empty=True,
    ),
    example="{rack: a1}",
)
_TAINT = Record(
    {
        "key": Text(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,315}[A-Za-z0-9])?", "the key of a taint"),
        "value": Text(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", "the value of a taint"),
        "effect": Text(choices=("NoSchedule", "PreferNoSchedule", "NoExecute")),
    },
    required=("key", "effect"),
)

_COMPONENTS = RELEASES[DEFAULT_RELEASE].versions
_DOWNLOADS = (*DOWNLOADS, *MANIFESTS, *CHARTS)
_SHA256 = Text(r"[0-9a-f]{64}", "64 hexadecimal digits")

# Variables of the whole platform: the same for every host.
SHARED: dict[str, Any] = {
    "tokenlabs_release": Text(),
    "tokenlabs_release_unsupported": Flag(),
    "tokenlabs_versions": Record(dict.fromkeys(_COMPONENTS, Text()), what="component"),
    "tokenlabs_checksums": Record(
        dict.fromkeys(_DOWNLOADS, Record(dict.fromkeys((*ARCHITECTURES, "noarch"), _SHA256), what="architecture")),
        what="download",
    ),
    "tokenlabs_charts": Record(
        dict.fromkeys(
            CHARTS,
            Record(
                {
                    "repository": Url(("oci", "https", "http"), "oci://registry.example.com/charts"),
                    "name": Text(r"[a-z0-9][a-z0-9._-]*", "the name of a chart"),
                },
                what="setting",
            ),
        ),
        what="chart",
    ),
    "tokenlabs_images": Record(dict.fromkeys(RELEASES[DEFAULT_RELEASE].images, Image()), what="image"),
    "tokenlabs_mirrors": Record(
        {
            "charts": Url(("oci",), "oci://mirror.example.com:5000"),
            "charts_plain_http": Flag(),
            "downloads": Url(("http", "https"), "https://mirror.example.com/downloads"),
            "pypi": Url(("http", "https"), "https://mirror.example.com/simple"),
        },
        what="mirror",
    ),
    "tokenlabs_tiers": Table(TIER_NAME, TIER, filled=True, example="{free: {requests: {1m: 10}, tokens: {1m: 5000}}}"),
    "tokenlabs_tenants": Items(TENANT, example="a list of {name: ..., tier: ...}"),
    "tokenlabs_token_limits": Text(choices=("envoy", "kuadrant")),
    "tokenlabs_namespace": Text(LABEL, LABEL_FORM),
    **SETTINGS,
    "tokenlabs_loadbalancer_range": Text(),
    "tokenlabs_observability": Record(
        {
            "prometheus": Text(choices=PROMETHEUS),
            "namespace": Text(LABEL, LABEL_FORM),
            "labels": _LABELS,
            "url": Url(("http", "https"), "http://prometheus-operated.monitoring.svc:9090"),
            "retention": Text(r"[1-9][0-9]*[hdwy]", "a time such as 30d"),
            "storage": _QUANTITY,
        },
        what="setting",
    ),
    "tokenlabs_currency": Text(r"[A-Z]{3}", "a currency such as EUR"),
    "tokenlabs_magpie_tts": MAGPIE_TTS,
    "tokenlabs_riva_stt": RIVA_STT,
    "tokenlabs_nvidia_api_key": Text(r"nvapi-[A-Za-z0-9_-]{16,}", "a key of NVIDIA's, in a vault file", secret=True),
    "tokenlabs_image_builds": Table(Text(LABEL, LABEL_FORM), BUILD, example="{vllm-serve: {context: images/vllm}}"),
    "tokenlabs_registry": Record(
        {
            "server": Text(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?", "a registry's name such as ghcr.io"),
            "username": Text(),
        },
        required=("server", "username"),
        what="setting",
    ),
    "tokenlabs_registry_password": Text(secret=True),
    "tokenlabs_hf_token": Text(
        r"(hf|api_org)_[A-Za-z0-9]{16,}", "a token of Hugging Face, in a vault file", secret=True
    ),
    "tokenlabs_redis_password": Text(
        r"[A-Za-z0-9_.~-]{16,}",
        "at least 16 letters, digits or _.~-, in a vault file, or leave it out to have one made",
        secret=True,
    ),
    "tokenlabs_microk8s_channel": Text(
        r"1\.[0-9]{2}(-strict)?/(stable|candidate|beta|edge)", "a track and risk such as 1.34/stable"
    ),
    "tokenlabs_cluster": Text(choices=("microk8s", "existing")),
    "tokenlabs_tools_dir": Text(r"/.+", "an absolute path"),
    "tokenlabs_state_dir": Text(r"/.+", "an absolute path"),
    "tokenlabs_gpu_toolkit": Text(choices=("host", "operator")),
    "tokenlabs_gpu_cdi": Flag(),
    "tokenlabs_kubeconfig": Text(r"/.+", "an absolute path"),
    "tokenlabs_tenants_files": Items(Text(), filled=True, example="[tenants.csv]"),
    "tokenlabs_adopt": Flag(),
    "tokenlabs_keys_dir": Text(),
    "tokenlabs_keys_grace": Span(),
    "tokenlabs_keys_recipient": Text(r"age1[a-z0-9]{58}|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( .*)?", "a recipient of age"),
    "tokenlabs_prune": Flag(),
    "tokenlabs_prune_max": Share(),
    "tokenlabs_no_log": Flag(),
}

# Variables that each host may set for itself.
HOST: dict[str, Any] = {
    "tokenlabs_models": Items(MODEL, example="a list of {name: ..., model: ..., image: ...}"),
    # None: a host without a GPU, for the simulator.
    "tokenlabs_gpu_slots": Number(0, 32),
    "tokenlabs_cluster_address": Text(),
    "tokenlabs_controller_is_spark": Flag(),
    "tokenlabs_arch": Text(choices=ARCHITECTURES),
    "tokenlabs_kubelet_args": Table(
        KubeletFlag(),
        Text(r"[^\s\"'#]+", "one word, without quotes"),
        example='{--max-pods: "150"}',
    ),
    "tokenlabs_node_labels": NodeLabels(),
    "tokenlabs_node_taints": Taints(),
}

SECRETS = (
    "tokenlabs_hf_token",
    "tokenlabs_nvidia_api_key",
    "tokenlabs_redis_password",
    "tokenlabs_registry_password",
)
# Set by the collection itself.
INTERNAL = ("tokenlabs_catalog",)

_PLACEHOLDER = re.compile(
    r"change[-_ ]?(me|it|this)|replace|example|placeholder|your[-_ ]|todo|fixme|dummy|insert|x{5,}|\.\.\.|12345|"
    r"^(password|passwd|secret|token|redis|admin|test|foobar|default)[0-9!_-]*$",
    re.IGNORECASE,
)


def looks_like_placeholder(secret: str) -> bool:
    """Whether a secret is one that was meant to be replaced, or is as good as none."""
    return bool(_PLACEHOLDER.search(secret)) or bool(re.fullmatch(r"<.*>", secret)) or len(set(secret)) < 6
