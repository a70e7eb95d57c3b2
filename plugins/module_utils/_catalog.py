# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one place that derives the platform from a valid inventory. Private to the collection."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._gateway import derive_gateway, derive_redis
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Host, Inventory
from ansible_collections.tokenlabs.platform.plugins.module_utils._model_rules import (
    amount,
    gpus_of,
    load_of,
    memory_of,
    names_of,
    workers_on_each,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import (
    ARCHITECTURES,
    CHARTS,
    DEFAULT_RELEASE,
    DOWNLOADS,
    MANIFESTS,
    RELEASES,
    Chart,
    broken_rules,
    checksum,
    kubernetes_minor,
    version_key,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._variables import NETWORKS

NAMESPACE = "token-labs"
HF_SECRET = "hf-token"
PULL_SECRET = "registry"
MODEL_PORT = 8000
MODEL_CACHE = "/var/lib/tokenlabs/models"

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
EMBEDDINGS_PATH = "/v1/embeddings"
MODELS_PATH = "/v1/models"
SPEECH_PATH = "/v1/audio/speech"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
# The speech server's own paths, which are taken by the gateway's models and health.
SPEECH_REWRITES = {"/v1/audio/models": "/v1/models", "/v1/audio/health": "/health"}
# Images that are built here and pushed nowhere.
BUILT = "tokenlabs.local"

_PROBE_SECONDS = 10
_DEFAULT_STARTUP_SECONDS = 1800
_DEFAULT_GRACE_SECONDS = 60
_SCALED_GRACE_SECONDS = 300
_METRICS_PATH = "/metrics"
_TRTLLM_METRICS_PATH = "/prometheus/metrics"

# Where an endpoint picker finds a worker's load. Its defaults are vLLM's names; an empty one is not looked for
# (kubernetes-sigs/gateway-api-inference-extension v1.3.0 site-src/implementations/model-servers.md).
_PICKER_FLAGS: dict[str, dict[str, str]] = {
    "sglang": {
        "total-queued-requests-metric": "sglang:num_queue_reqs",
        "total-running-requests-metric": "sglang:num_running_reqs",
        "kv-cache-usage-percentage-metric": "sglang:token_usage",
        "lora-info-metric": "",
        "cache-info-metric": "",
    },
    "trtllm": {
        "model-server-metrics-path": _TRTLLM_METRICS_PATH,
        "total-queued-requests-metric": "",
        "total-running-requests-metric": "",
        "kv-cache-usage-percentage-metric": "",
        "lora-info-metric": "",
        "cache-info-metric": "",
    },
}
# TensorRT-LLM has Prometheus metrics only when a file of options asks for them.
_TRTLLM_OPTIONS = "/dev/shm/trtllm.yaml"
_TRTLLM_START = (
    'mkdir -p "$PROMETHEUS_MULTIPROC_DIR" && '
    f"echo 'return_perf_metrics: true' > {_TRTLLM_OPTIONS} && "
    'exec trtllm-serve "$@"'
)
_GPU_RESOURCES = {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"cpu": "8", "memory": "64Gi"}}
_SPEECH_RESOURCES = {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"cpu": "8", "memory": "8Gi"}}
_CPU_RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}

Data = dict[str, Any]


def derive(inventory: Inventory) -> Data:
    """The catalog of an inventory without problems."""
    shared = inventory.shared
    release = RELEASES[shared.get("tokenlabs_release") or DEFAULT_RELEASE]
    overrides = shared.get("tokenlabs_versions") or {}
    versions = {**release.versions, **overrides}
    mirrors = shared.get("tokenlabs_mirrors") or {}
    channel = shared.get("tokenlabs_microk8s_channel") or release.kubernetes_channel
    if inventory.existing:
        channel = release.newest_kubernetes
    namespace = shared.get("tokenlabs_namespace") or NAMESPACE
    hf_secret = HF_SECRET if shared.get("tokenlabs_hf_token") else None
    builds = _builds(inventory)
    models = _models(inventory, builds)
    speech, transcriptions = _speech(inventory, builds), _transcriptions(shared)
    registry = shared.get("tokenlabs_registry") or {}
    for each in (*models, *([speech] if speech else [])):
        each["pull_secret"] = PULL_SECRET if each["image"].partition("/")[0] == registry.get("server") else None
    charts = _charts(shared, versions, mirrors)
    images = {**release.images, **(shared.get("tokenlabs_images") or {})}
    return {
        "cluster": shared.get("tokenlabs_cluster") or "microk8s",
        "release": {
            "name": release.name,
            "kubernetes_channel": channel,
            "kubernetes_minor": kubernetes_minor(channel),
            "kubernetes_oldest": release.oldest_kubernetes,
            "kubernetes_newest": release.newest_kubernetes,
            "versions": versions,
            "unsupported": shared.get("tokenlabs_release_unsupported") is True,
            "risks": [
                f"{rule.reason} (source: {rule.source})"
                + (f"; {release.strains[rule.id]}" if rule.id in release.strains else "")
                for rule in broken_rules({**versions, "kubernetes": kubernetes_minor(channel)})
            ],
        },
        "gpu": _gpu(shared, kubernetes_minor(channel)),
        "charts": charts,
        "manifests": _manifests(shared, versions, mirrors),
        "downloads": _downloads(shared, versions, mirrors),
        "pypi_index": mirrors.get("pypi"),
        "images": {"redis": images["redis"], "epp": image_parts(images["epp"])},
        "nodes": _nodes(inventory),
        "controller": inventory.controllers[0].name,
        "models": [_public(model) for model in models],
        "tiers": _tiers(shared["tokenlabs_tiers"], models),
        "token_limits": shared.get("tokenlabs_token_limits") or "envoy",
        "paths": _paths(models),
        "services": _services(speech, transcriptions),
        "speech": speech,
        "transcriptions": transcriptions,
        "builds": builds,
        "registry": {"secret": PULL_SECRET, **registry} if registry else None,
        "models_body": _models_body(models),
        "hf_secret": hf_secret,
        "helmfile": _helmfile(models, charts, image_parts(images["epp"]), namespace, hf_secret),
        "gateway": {
            **derive_gateway(shared, namespace, inventory.directory),
            "host_addresses": host_addresses(inventory),
        },
        "redis": derive_redis(shared),
        "limits_unavailable": shared.get("tokenlabs_limits_unavailable") or "allow",
        "oidc": dict(shared["tokenlabs_oidc"]) if shared.get("tokenlabs_oidc") else None,
        "observability": observability(shared),
        "loadbalancer_range": shared.get("tokenlabs_loadbalancer_range"),
        "networks": dict(NETWORKS),
        "mirrors": _mirror_ports(mirrors),
    }


def summarize(catalog: Data, tenants: list[Any], remarks: Sequence[Any] = ()) -> list[str]:
    """What a catalog means, in a few lines for people."""
    tenants = [tenant for tenant in tenants if tenant.get("state") != "absent"]
    suspended = sum(1 for tenant in tenants if tenant.get("state") == "suspended")
    lines = [
        f"Release {catalog['release']['name']} on Kubernetes {catalog['release']['kubernetes_channel']}",
        f"Controller {catalog['controller']}, {sum(node['gpu'] for node in catalog['nodes'].values())} Sparks",
    ]
    if catalog["cluster"] == "existing":
        lines[0] = f"Release {catalog['release']['name']} on a cluster that somebody else runs; no host is touched"
    lines += [f"Warning: {risk}" for risk in (*catalog["release"]["risks"], *remarks)]
    for model in catalog["models"]:
        workers = "" if model["replicas"] == len(model["hosts"]) else f", {model['replicas']} workers"
        lines.append(f"Model {model['served_name']} ({model['name']}) on {', '.join(model['hosts'])}{workers}")
    for name, tier in catalog["tiers"].items():
        members = sum(1 for tenant in tenants if tenant.get("tier") == name)
        limits = [f"{limit} {what}/{window}" for what in ("requests", "tokens") for window, limit in tier[what].items()]
        models = ", ".join(tier["models"]) if tier["models"] else "all models"
        lines.append(f"Tier {name}: {', '.join(limits)}; {models}; {members} tenants")
    lines.append(f"Tenants: {len(tenants)}" + (f", {suspended} suspended" if suspended else ""))
    if COMPLETIONS_PATH not in catalog["paths"]:
        lines.append(f"{COMPLETIONS_PATH} stays closed: not every model's server tells the tokens of every stream")
    return lines


def host_addresses(inventory: Inventory) -> list[str]:
    """Where hosts answer for the gateway themselves: nowhere when a load balancer does, else where it was chosen, or on
    every controller, so that losing one leaves the others."""
    shared = inventory.shared
    if shared.get("tokenlabs_loadbalancer_range") or inventory.existing:
        return []
    chosen = (shared.get("tokenlabs_gateway") or {}).get("address")
    return [chosen] if chosen else [str(host.address) for host in inventory.controllers]


def observability(shared: Mapping[str, Any]) -> Data:
    """Which Prometheus there is, where monitors go, and by which labels it finds them."""
    given = shared.get("tokenlabs_observability") or {}
    mode = given.get("prometheus") or "none"
    namespace = given.get("namespace") or "monitoring"
    return {
        "prometheus": mode,
        "namespace": namespace,
        "labels": dict(given.get("labels") or {}),
        "url": given.get("url") or (f"http://prometheus-operated.{namespace}.svc:9090" if mode == "stack" else None),
        "retention": given.get("retention") or "30d",
        "storage": given.get("storage") or "20Gi",
        "currency": shared.get("tokenlabs_currency") or "USD",
    }


# --- sources ---------------------------------------------------------------------------------------------------------


def _without_scheme(url: str) -> str:
    return url.partition("://")[2].rstrip("/")


def _charts(shared: Mapping[str, Any], versions: Data, mirrors: Mapping[str, Any]) -> Data:
    """Where each chart is, and its checksum: a given one, else the published one of what is fetched from upstream."""
    given = shared.get("tokenlabs_charts") or {}
    charts = {}
    for key, chart in CHARTS.items():
        own = given.get(key) or {}
        place = Chart(own.get("repository") or chart.repository, own.get("name") or chart.name, chart.component)
        reference = chart_reference(place, versions[chart.component], mirrors)
        pinned = _given_checksum(shared, key, "noarch")
        # A mirror, or another source, may have packed the chart itself.
        published = place == chart and not mirrors.get("charts")
        known = checksum(key, versions[chart.component], "noarch") if published else None
        charts[key] = {**reference, "sha256": pinned or known}
    return charts


def chart_reference(chart: Chart, version: str, mirrors: Mapping[str, Any]) -> Data:
    """Where to pull a chart from; a mirror holds it as an OCI artefact under the host and path of its source."""
    mirror = mirrors.get("charts")
    if mirror:
        return {
            "ref": f"{mirror}/{_without_scheme(chart.repository)}/{chart.name}",
            "repo_url": None,
            "version": version,
            "plain_http": bool(mirrors.get("charts_plain_http")),
        }
    in_registry = chart.repository.startswith("oci://")
    return {
        "ref": f"{chart.repository.rstrip('/')}/{chart.name}" if in_registry else chart.name,
        "repo_url": None if in_registry else chart.repository,
        "version": version,
        "plain_http": False,
    }


def _mirror_ports(mirrors: Mapping[str, Any]) -> list[Data]:
    """Where each mirror listens, for who wants to know whether it can be reached."""
    found = []
    for name in ("charts", "downloads", "pypi"):
        if mirrors.get(name):
            scheme, _separator, rest = mirrors[name].partition("://")
            host, _separator, port = rest.partition("/")[0].partition(":")
            plain = scheme == "http" or (scheme == "oci" and bool(mirrors.get("charts_plain_http")))
            found.append({"name": name, "host": host, "port": int(port) if port else (80 if plain else 443)})
    return found


def mirrored(url: str, mirrors: Mapping[str, Any]) -> str:
    """A download's address, or that of its copy under the mirror."""
    mirror = mirrors.get("downloads")
    return f"{mirror}/{_without_scheme(url)}" if mirror else url


def image_parts(image: str) -> Data:
    """``ghcr.io/llm-d/epp:v1`` as the hub, name and tag that the chart wants; a digest goes with the tag."""
    plain, at, digest = image.partition("@")
    path, _separator, tag = plain.rpartition(":")
    tag += at + digest
    hub, _separator, name = path.rpartition("/")
    return {"hub": hub, "name": name, "tag": tag}


def _given_checksum(shared: Mapping[str, Any], component: str, kind: str) -> str | None:
    return ((shared.get("tokenlabs_checksums") or {}).get(component) or {}).get(kind)


def _manifests(shared: Mapping[str, Any], versions: Data, mirrors: Mapping[str, Any]) -> Data:
    return {
        component: {
            "url": mirrored(url.format(version=versions[component]), mirrors),
            "sha256": _given_checksum(shared, component, "noarch")
            or checksum(component, versions[component], "noarch"),
            "version": versions[component],
        }
        for component, url in MANIFESTS.items()
    }


def _downloads(shared: Mapping[str, Any], versions: Data, mirrors: Mapping[str, Any]) -> Data:
    downloads: Data = {}
    for component, download in DOWNLOADS.items():
        version = versions[component]
        downloads[component] = {"version": version}
        for arch in ARCHITECTURES:
            fields = {"version": version, "number": version.removeprefix("v"), "arch": arch}
            downloads[component][arch] = {
                "url": mirrored(download.url.format(**fields), mirrors),
                "checksums_url": mirrored(download.checksums.format(**fields), mirrors),
                "sha256": _given_checksum(shared, component, arch) or checksum(component, version, arch),
            }
    return downloads


# --- nodes, models, tiers --------------------------------------------------------------------------------------------


def _nodes(inventory: Inventory) -> Data:
    count = Counter(model["name"] for host in inventory.sparks for model in host.served)
    speech = inventory.shared.get("tokenlabs_magpie_tts") or {}
    return {
        host.name: {**_node(host), **_load(host, count, [speech] if speech.get("host") == host.name else [])}
        for host in inventory.hosts
    }


def _load(host: Host, count: Mapping[str, int], services: list[Mapping[str, Any]]) -> Data:
    """What the models and services on a host take of it."""
    served = host.served if host.spark else []
    gpus, memory = load_of(served, count)
    cache = sum(amount(each["cache_size"]) for each in [*served, *services] if each.get("cache_size"))
    return {"gpu_slots_used": gpus, "memory_fraction": memory, "cache_gib": math.ceil(cache / 2**30)}


def _node(host: Host) -> Data:
    return {
        "name": host.name,
        "role": "controller" if host.controller else "worker",
        "address": host.address,
        # A Spark is arm64 unless told otherwise; a controller may be either.
        "arch": host.vars.get("tokenlabs_arch") or ("arm64" if host.spark else None),
        "gpu": host.spark and _slots(host) > 0,
        "gpu_slots": _slots(host) if host.spark else 0,
        "kubelet_args": dict(host.vars.get("tokenlabs_kubelet_args") or {}),
        "labels": dict(host.vars.get("tokenlabs_node_labels") or {}),
        "taints": [dict(taint) for taint in host.vars.get("tokenlabs_node_taints") or []],
    }


def _gpu(shared: Mapping[str, Any], minor: str) -> Data:
    """How containers get at GPUs: whose toolkit does it, and whether by CDI.

    containerd 1.7, which MicroK8s has up to 1.34, takes CDI devices from the kubelet only when it is told to.
    """
    cdi = shared.get("tokenlabs_gpu_cdi")
    return {
        "toolkit": shared.get("tokenlabs_gpu_toolkit") or "host",
        "cdi": tuple(map(int, minor.split("."))) >= (1, 35) if cdi is None else cdi,
    }


def _slots(host: Host) -> int:
    slots = host.vars.get("tokenlabs_gpu_slots")
    return 1 if slots is None else int(slots)


def _builds(inventory: Inventory) -> Data:
    """Images that are built on the hosts that run them, or on one of them for a registry."""
    found: Data = {}
    users = [(model.get("build"), host.name) for host in inventory.sparks for model in host.served]
    speech = inventory.shared.get("tokenlabs_magpie_tts")
    users += [(speech.get("build"), speech["host"])] if speech else []
    for name, build in (inventory.shared.get("tokenlabs_image_builds") or {}).items():
        context, digits = inventory.contexts[name]
        hosts = sorted({host for used, host in users if used == name})
        found[name] = {
            "name": name,
            "image": f"{build.get('registry') or BUILT}/{name}:{digits}",
            "context": context,
            "dockerfile": build.get("dockerfile") or "Dockerfile",
            "args": dict(build.get("args") or {}),
            "push": bool(build.get("registry")),
            "hosts": hosts[:1] if build.get("registry") else hosts,
        }
    return found


def _image_of(what: Mapping[str, Any], builds: Data) -> str:
    return str(what["image"] if what.get("image") else builds[what["build"]]["image"])


def _speech(inventory: Inventory, builds: Data) -> Data | None:
    given = inventory.shared.get("tokenlabs_magpie_tts")
    if not given:
        return None
    node = next(_node(host) for host in inventory.hosts if host.name == given["host"])
    return {
        "host": given["host"],
        "image": _image_of(given, builds),
        "startup_seconds": given.get("startup_seconds") or 900,
        "resources": _amounts(given.get("resources") or {}, _SPEECH_RESOURCES),
        "tolerations": _tolerate(node["taints"]),
        "access": list(given["access"]) if given.get("access") else None,
    }


def _transcriptions(shared: Mapping[str, Any]) -> Data | None:
    given = shared.get("tokenlabs_riva_stt")
    if not given:
        return None
    protocol = given.get("protocol") or "https"
    return {
        "host": given["host"],
        "port": given.get("port") or (443 if protocol == "https" else 80),
        "path": given.get("path") or TRANSCRIPTIONS_PATH,
        "tls": protocol == "https",
        "timeout_seconds": given.get("timeout_seconds") or 120,
        "credential": bool(shared.get("tokenlabs_nvidia_api_key")),
        "access": list(given["access"]) if given.get("access") else None,
    }


def _services(speech: Data | None, transcriptions: Data | None) -> Data:
    """Open paths that are no model's, each with the tiers that it is for (None: all)."""
    found: Data = {}
    if speech:
        found |= dict.fromkeys((SPEECH_PATH, *SPEECH_REWRITES), speech["access"])
    if transcriptions:
        found[TRANSCRIPTIONS_PATH] = transcriptions["access"]
    return found


def _models(inventory: Inventory, builds: Data) -> list[Data]:
    """Every model once, with the Sparks that serve it: the first definition stands for all, as they are equal."""
    models: dict[str, Data] = {}
    for host in inventory.sparks:
        for model in host.served:
            known = models.setdefault(model["name"], {**model, "hosts": [], "taints": []})
            known["hosts"].append(host.name)
            known["taints"] += [taint for taint in _node(host)["taints"] if taint not in known["taints"]]
    return [_complete({**models[name], "image": _image_of(models[name], builds)}) for name in sorted(models)]


def _complete(model: Data) -> Data:
    name, engine, names = model["name"], model.get("engine") or "vllm", names_of(model)
    hosts = sorted(model["hosts"])
    return {
        "name": name,
        "model": model["model"],
        "served_name": model.get("served_name") or model["model"],
        "engine": engine,
        "image": model["image"],
        "args": list(model.get("args") or []),
        "env": dict(model.get("env") or {}),
        "gpus": gpus_of(model),
        "memory_fraction": memory_of(model),
        "hosts": hosts,
        "replicas": model.get("replicas") or len(hosts),
        # Up to which number of workers an autoscaler may go; None where there is none.
        "max_replicas": model.get("max_replicas"),
        # As many of its workers may come to be on one Spark.
        "replicas_per_host": workers_on_each(model, len(hosts)),
        "pool": names["pool"],
        # What the pool's endpoint picker and its Service are called: the chart cuts the release's name.
        "picker": f"{names['pool'][:40]}-epp",
        "release": names["worker"],
        "deployment": f"{names['worker']}-decode",
        "label": names["label"],
        "startup_seconds": model.get("startup_seconds") or _DEFAULT_STARTUP_SECONDS,
        "metrics_path": _TRTLLM_METRICS_PATH if engine == "trtllm" else _METRICS_PATH,
        "tools": bool(model.get("tool_parser")),
        "vision": bool(model.get("vision")),
        # Money for a million tokens.
        "price": dict(model["price"]) if model.get("price") else None,
        # not part of the catalog
        "_access": list(model["access"]) if model.get("access") else None,
        "_taints": model["taints"],
        "_command": list(model.get("command") or []),
        "_resources": dict(model.get("resources") or {}),
        "_shm_size": model.get("shm_size") or "8Gi",
        # Where workers come and go all day, what they are answering has to end first.
        "_grace_seconds": model.get("grace_seconds")
        or (_SCALED_GRACE_SECONDS if model.get("max_replicas") else _DEFAULT_GRACE_SECONDS),
        "_tool_parser": model.get("tool_parser"),
        "_picker_flags": {**_PICKER_FLAGS.get(engine, {}), **(model.get("picker_flags") or {})},
        "_forces_usage": engine == "vllm" or bool(model.get("forces_usage")),
    }


def _public(model: Data) -> Data:
    return {key: value for key, value in model.items() if not key.startswith("_")}


def _tiers(tiers: Mapping[str, Any], models: list[Data]) -> Data:
    return {
        name: {
            "requests": dict(tier["requests"]),
            "tokens": dict(tier["tokens"]),
            "models": _entitled(name, tier.get("models"), models),
        }
        for name, tier in sorted(tiers.items())
    }


def _entitled(tier: str, chosen: list[str] | None, models: list[Data]) -> list[str] | None:
    """The models that a tier may use: what it names, or all whose access does not leave it out. None: every model."""
    if chosen:
        return sorted(set(chosen))
    open_to_it = [model["name"] for model in models if tier in (model["_access"] or [tier])]
    return None if len(open_to_it) == len(models) else open_to_it


def _paths(models: list[Data]) -> list[str]:
    """The paths that are open: only those on which every answer of every model tells how many tokens it cost."""
    countable = all(model["_forces_usage"] for model in models)
    return [CHAT_PATH, *([COMPLETIONS_PATH] if countable else []), EMBEDDINGS_PATH, MODELS_PATH]


def _models_body(models: list[Data]) -> str:
    data = [
        {"id": name, "object": "model", "created": 0, "owned_by": "tokenlabs"}
        for name in sorted(model["served_name"] for model in models)
    ]
    return json.dumps({"object": "list", "data": data}, separators=(",", ":"))


# --- helmfile --------------------------------------------------------------------------------------------------------


def _helmfile(models: list[Data], charts: Data, epp: Data, namespace: str, hf_secret: str | None) -> Data:
    releases: list[Data] = []
    values: Data = {}

    def release(name: str, chart: str, model: Data, needs: list[str]) -> Data:
        return {
            "name": name,
            "namespace": namespace,
            "chart": chart,
            "needs": needs,
            "labels": {"tokenlabs-managed": "llm-d", "tokenlabs-model": model["name"]},
            "values": [f"values/{name}.yaml"],
        }

    pool_version = charts["inferencepool"]["version"]
    for model in models:
        releases.append(release(model["pool"], "inferencepool", model, []))
        releases.append(release(model["release"], "modelservice", model, [f"{namespace}/{model['pool']}"]))
        values[model["pool"]] = pool_values(model, epp, pool_version)
        values[model["release"]] = worker_values(model, hf_secret)
    return {
        # The labels reach helm's own records, where releases are found that have left the inventory.
        "helmDefaults": {"createNamespace": False, "historyMax": 5, "syncReleaseLabels": True, "wait": False},
        # The releases name them; the module helmfile fetches them.
        "charts": [{"name": key, **charts[key]} for key in ("inferencepool", "modelservice")],
        "releases": releases,
        "values": values,
    }


def _labels(model: Data) -> Data:
    # The picker's selector and the workers' labels: unique per model, or two pools would share their workers.
    return {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": model["label"]}


def pool_values(model: Data, epp: Data, version: str) -> Data:
    """Values of the inferencepool chart: the pool and its endpoint picker."""
    extension: Data = {
        "replicas": 1,
        "image": {**epp, "pullPolicy": "IfNotPresent"},
        "monitoring": {
            "prometheus": {"enabled": False, "auth": {"enabled": True, "secretName": f"{model['pool']}-metrics-reader"}}
        },
    }
    if version_key(version) >= (1, 5):
        # Other names for the image; its requests of 4 cores are for thousands of requests a second, and a picker that
        # is down would be passed by (kubernetes-sigs/gateway-api-inference-extension v1.5.0
        # config/charts/inferencepool/values.yaml).
        registry, _separator, path = epp["hub"].partition("/")
        extension["image"] = {
            "registry": registry,
            "repository": f"{path}/{epp['name']}" if path else epp["name"],
            "tag": epp["tag"],
            "pullPolicy": "IfNotPresent",
        }
        extension["resources"] = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
        extension["failureMode"] = "FailClose"
    if model["_picker_flags"]:
        extension["flags"] = {"v": 1, **model["_picker_flags"]}
    return {
        "inferencePool": {
            "targetPorts": [{"number": MODEL_PORT}],
            "modelServerType": "vllm",
            "modelServers": {"matchLabels": _labels(model)},
        },
        "inferenceExtension": extension,
        "provider": {"name": "none"},
    }


def worker_values(model: Data, hf_secret: str | None) -> Data:
    """Values of the llm-d-modelservice chart: one worker on each of the model's Sparks."""
    simulated = model["engine"] == "sim"
    artifacts: Data = {
        "name": model["served_name"],
        "uri": f"hf://{model['model']}",
        "labels": _labels(model),
    }
    if hf_secret and not simulated:
        artifacts["authSecretName"] = hf_secret
    decode: Data = {
        "create": True,
        "replicas": model["replicas"],
        "strategy": _strategy(model["replicas"]),
        "parallelism": {"tensor": max(model["gpus"], 1)},
        "extraConfig": _placement(model),
        "terminationGracePeriodSeconds": model["_grace_seconds"],
        "enableServiceLinks": False,
        "monitoring": {"podmonitor": {"enabled": False}},
        "containers": [_container(model)],
        "volumes": _volumes(model),
    }
    tolerations = _tolerations(model)
    if tolerations:
        decode["tolerations"] = tolerations
    if model["pull_secret"]:
        decode["extraConfig"]["imagePullSecrets"] = [{"name": model["pull_secret"]}]
    return {
        "fullnameOverride": model["release"],
        "modelArtifacts": artifacts,
        "accelerator": {"type": "nvidia" if model["gpus"] else "cpu"},
        "routing": {"servicePort": MODEL_PORT, "proxy": {"enabled": False}},
        "decode": decode,
        "prefill": {"create": False},
    }


def _tolerations(model: Data) -> list[Data]:
    """For the GPU's taint, and for those that the inventory puts on the model's own Sparks."""
    gpu = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if model["gpus"] else []
    return gpu + _tolerate(model["_taints"])


def _tolerate(taints: list[Data]) -> list[Data]:
    return [
        {"operator": "Equal", **taint} if taint.get("value") else {**taint, "operator": "Exists"} for taint in taints
    ]


def _strategy(replicas: int) -> Data:
    # A surge pod would wait for ever for a GPU that the old pod holds.
    if replicas == 1:
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def _placement(model: Data) -> Data:
    hosts = [{"key": "kubernetes.io/hostname", "operator": "In", "values": model["hosts"]}]
    node = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": hosts}]}}
    own = {"labelSelector": {"matchLabels": _labels(model)}, "topologyKey": "kubernetes.io/hostname"}
    placement: Data = {"affinity": {"nodeAffinity": node}}
    if model["replicas_per_host"] == 1:
        placement["affinity"]["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [own]}
    else:
        placement["topologySpreadConstraints"] = [{**own, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]
    if model["gpus"]:
        placement["runtimeClassName"] = "nvidia"
    return placement


def _container(model: Data) -> Data:
    engine = model["engine"]
    health = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 5}
    started = {"sglang": "/health_generate"}.get(engine, "/health")
    ready = {"sim": "/ready"}.get(engine, "/health")
    container: Data = {
        "name": engine,
        "image": model["image"],
        "imagePullPolicy": "IfNotPresent",
        "modelCommand": {"vllm": "vllmServe", "sim": "imageDefault"}.get(engine, "custom"),
        "args": [*_own_arguments(model), *model["args"]],
        "env": _environment(model),
        "ports": [{"name": "http", "containerPort": MODEL_PORT, "protocol": "TCP"}],
        "resources": _amounts(model["_resources"], _GPU_RESOURCES if model["gpus"] else _CPU_RESOURCES),
        "volumeMounts": _mounts(model),
        "startupProbe": {
            **health,
            "httpGet": {"path": started, "port": "http"},
            "periodSeconds": _PROBE_SECONDS,
            "failureThreshold": -(-model["startup_seconds"] // _PROBE_SECONDS),
        },
        "readinessProbe": {
            **health,
            "httpGet": {"path": ready, "port": "http"},
            "periodSeconds": 15,
            "failureThreshold": 3,
        },
        "livenessProbe": {**health, "timeoutSeconds": 10, "periodSeconds": 30, "failureThreshold": 3},
    }
    command = {
        "custom": model["_command"],
        "sglang": ["python3", "-m", "sglang.launch_server"],
        # The last word is the shell's name for itself; the arguments follow it.
        "trtllm": ["/bin/bash", "-c", _TRTLLM_START, "trtllm"],
    }.get(engine)
    if command:
        container["command"] = command
    return container


def _own_arguments(model: Data) -> list[str]:
    """What the platform itself tells a server; the chart adds the model, the port and the names for vLLM and sim."""
    engine, parser = model["engine"], model["_tool_parser"]
    memory = f"{model['memory_fraction']:g}"
    if engine == "vllm":
        found = ["--enable-force-include-usage"]
        found += [f"--gpu-memory-utilization={memory}"] if model["gpus"] else []
        return found + (["--enable-auto-tool-choice", f"--tool-call-parser={parser}"] if parser else [])
    if engine == "sglang":
        found = [
            f"--model-path={model['model']}",
            f"--served-model-name={model['served_name']}",
            "--host=0.0.0.0",
            f"--port={MODEL_PORT}",
            f"--tp={max(model['gpus'], 1)}",
            "--enable-metrics",
        ]
        found += [f"--mem-fraction-static={memory}"] if model["gpus"] else []
        return found + ([f"--tool-call-parser={parser}"] if parser else [])
    if engine == "trtllm":
        return [
            model["model"],
            "--backend=pytorch",
            "--host=0.0.0.0",
            f"--port={MODEL_PORT}",
            f"--tp_size={max(model['gpus'], 1)}",
            f"--extra_llm_api_options={_TRTLLM_OPTIONS}",
        ]
    return []


def _amounts(given: Mapping[str, Any], default: Data) -> Data:
    own = {kind: dict(given.get(kind) or {}) for kind in default}
    # Of a resource that is given at all, nothing is added: a default request could be above a given limit.
    touched = {resource for amounts in own.values() for resource in amounts}
    return {
        kind: {
            **{resource: amount for resource, amount in default[kind].items() if resource not in touched},
            **own[kind],
        }
        for kind in default
    }


def _environment(model: Data) -> list[Data]:
    own = {} if model["engine"] == "sim" else {"HF_HOME": "/model-cache"}
    if model["engine"] == "trtllm":
        own["PROMETHEUS_MULTIPROC_DIR"] = "/dev/shm/prometheus"
    return [{"name": name, "value": value} for name, value in sorted({**own, **model["env"]}.items())]


def _mounts(model: Data) -> list[Data]:
    if model["engine"] == "sim":
        return []
    return [{"name": "model-cache", "mountPath": "/model-cache"}, {"name": "shm", "mountPath": "/dev/shm"}]


def _volumes(model: Data) -> list[Data]:
    if model["engine"] == "sim":
        return []
    return [
        # On the Spark's own disk: weights are downloaded once, and no network file system stands in the way.
        {"name": "model-cache", "hostPath": {"path": MODEL_CACHE, "type": "DirectoryOrCreate"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": model["_shm_size"]}},
    ]
