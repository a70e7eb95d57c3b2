# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalog: what must hold for every inventory, and what it says of known ones."""

from __future__ import annotations

import json
import math
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _catalog as catalog
from ansible_collections.tokenlabs.platform.plugins.module_utils import _release_sets
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Host, Inventory
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory_rules import validate
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import (
    CHARTS,
    DOWNLOADS,
    MANIFESTS,
    RELEASES,
    RULES,
    broken_rules,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.catalog.inventories import load, write

TIERS = {"free": {"requests": {"1m": 1}, "tokens": {"1m": 1}}}


def model(name: str, **changes: Any) -> dict[str, Any]:
    # A little of the memory, so that many go on one Spark.
    memory = {} if changes.get("engine") == "sim" else {"memory_fraction": 0.05}
    return {"name": name, "model": f"org/{name}", "image": "registry/server:v1", **memory, **changes}


def inventory(*models: list[dict[str, Any]], **shared: Any) -> Inventory:
    """One controller, and one Spark for each list of models."""
    hosts = [Host("controller", True, False, {"ansible_host": "10.0.0.1"})]
    for index, served in enumerate(models):
        hosts.append(
            Host(
                f"spark-{index:02}",
                False,
                True,
                {"ansible_host": f"10.0.1.{index}", "tokenlabs_models": served, "tokenlabs_gpu_slots": 8},
            )
        )
    return Inventory(tuple(hosts), {"tokenlabs_tiers": TIERS, **shared})


def derive(*models: list[dict[str, Any]], **shared: Any) -> dict[str, Any]:
    chosen = inventory(*models, **shared)
    assert validate(chosen, lambda host, path: str(host)) == []
    return catalog.derive(chosen)


def test_without_a_range_hosts_answer_for_the_gateway() -> None:
    def addresses(**shared: Any) -> list[str]:
        return list(derive([model("x")], **shared)["gateway"]["host_addresses"])

    assert addresses(tokenlabs_loadbalancer_range="10.0.2.1-10.0.2.9", tokenlabs_gateway={"address": "10.0.2.3"}) == []
    assert addresses() == ["10.0.0.1"]
    assert addresses(tokenlabs_gateway={"address": "10.0.1.0"}) == ["10.0.1.0"]


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,33}[a-z0-9])?", fullmatch=True)
engines = st.sampled_from(
    [
        {"engine": "vllm"},
        {"engine": "sglang"},
        {"engine": "trtllm"},
        {"engine": "sim", "image": "ghcr.io/llm-d/llm-d-inference-sim:v0.7.1"},
        {"engine": "custom", "command": ["serve"]},
    ]
)


@st.composite
def placements(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Models on some of a few Sparks, each at least on one."""
    known = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    defined = [model(name, **draw(engines)) for name in known]
    sparks = draw(st.integers(1, 4))
    placed: list[list[dict[str, Any]]] = [[] for _ in range(sparks)]
    for each in defined:
        for index in draw(st.sets(st.integers(0, sparks - 1), min_size=1)):
            placed[index].append(each)
    return placed


@settings(max_examples=60, deadline=None)
@given(placements())
def test_everything_follows_from_where_models_are(placed: list[list[dict[str, Any]]]) -> None:
    derived = derive(*placed)
    models = derived["models"]
    assert [each["name"] for each in models] == sorted({each["name"] for served in placed for each in served})
    releases = {release["name"]: release for release in derived["helmfile"]["releases"]}
    assert set(releases) == set(derived["helmfile"]["values"])
    assert len(releases) == 2 * len(models)
    for each in models:
        expected = [f"spark-{index:02}" for index, served in enumerate(placed) if model_in(served, each["name"])]
        assert each["hosts"] == expected
        assert each["replicas"] == len(expected)
        _names_fit(each)
        _values_agree(each, derived["helmfile"]["values"])
        assert releases[each["release"]]["needs"] == [f"token-labs/{each['pool']}"]
    ids = [entry["id"] for entry in json.loads(derived["models_body"])["data"]]
    assert ids == sorted(each["served_name"] for each in models)
    custom = any(each["engine"] != "vllm" for each in models)
    assert ("/v1/completions" in derived["paths"]) is not custom
    json.dumps(derived)


@st.composite
def loads(draw: st.DrawFn) -> Inventory:
    """Sparks with some slots, and models with any needs on some of them: it may fit or not."""
    tenths = st.integers(1, 8)
    sparks = draw(st.integers(1, 3))
    known = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    placed: list[list[dict[str, Any]]] = [[] for _ in range(sparks)]
    for name in known:
        wish = draw(st.sampled_from([{}, {"replicas": 1}, {"replicas": 2}, {"replicas": 3}]))
        each = model(name, memory_fraction=draw(tenths) / 10, gpus=draw(st.integers(0, 2)), **wish)
        for index in draw(st.sets(st.integers(0, sparks - 1), min_size=1)):
            placed[index].append({**each, "state": draw(st.sampled_from(["present", "present", "absent"]))})
    chosen = inventory(*placed)
    for host in chosen.sparks:
        host.vars["tokenlabs_gpu_slots"] = draw(st.integers(0, 4))  # type: ignore[index]
    return chosen


@settings(max_examples=150, deadline=None)
@given(loads())
def test_no_spark_ever_gets_more_than_it_holds(chosen: Inventory) -> None:
    """An inventory is taken exactly if its workers, spread evenly, fit into every Spark's slots and memory."""
    where: dict[str, list[str]] = {}
    for host in chosen.sparks:
        for each in host.vars["tokenlabs_models"]:
            if each["state"] == "present":
                where.setdefault(each["name"], []).append(host.name)
    used = {host.name: [0, 0.0] for host in chosen.sparks}
    for host in chosen.sparks:
        for each in host.vars["tokenlabs_models"]:
            if each["state"] == "present":
                sparks = len(where[each["name"]])
                workers = math.ceil(each.get("replicas", sparks) / sparks)
                used[host.name][0] += workers * each["gpus"]
                used[host.name][1] += workers * each["memory_fraction"] * (each["gpus"] > 0)
    fits = all(
        used[host.name][0] <= host.vars["tokenlabs_gpu_slots"] and round(used[host.name][1], 4) <= 0.95
        for host in chosen.sparks
    )
    found = validate(chosen, lambda host, path: str(host))
    assert (found == []) is (fits and bool(where)), [str(problem) for problem in found]
    if found:
        return
    derived = catalog.derive(chosen)
    for name, (slots, memory) in used.items():
        assert derived["nodes"][name]["gpu_slots_used"] == slots
        assert derived["nodes"][name]["memory_fraction"] == round(memory, 4)
    assert {each["name"]: each["hosts"] for each in derived["models"]} == where


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_tier_may_use_what_it_and_the_model_allow(data: st.DataObject) -> None:
    tiers = ["free", "pro", "enterprise"]
    some = st.one_of(st.none(), st.lists(st.sampled_from(tiers), min_size=1, unique=True))
    access = {f"m-{number}": data.draw(some) for number in range(3)}
    models = [model(name, **({"access": chosen} if chosen else {})) for name, chosen in access.items()]
    wanted = {
        tier: data.draw(st.one_of(st.none(), st.lists(st.sampled_from(sorted(access)), min_size=1, unique=True)))
        for tier in tiers
    }
    limits = {"requests": {"1m": 1}, "tokens": {"1m": 1}}
    shared = {tier: {**limits, **({"models": chosen} if chosen else {})} for tier, chosen in wanted.items()}
    allowed = {
        tier: {name for name, only in access.items() if tier in (only or tiers) and name in (wanted[tier] or access)}
        for tier in tiers
    }
    contradicts = any(set(wanted[tier] or ()) - allowed[tier] for tier in tiers) or not all(allowed.values())
    chosen = inventory(models, tokenlabs_tiers=shared)
    assert bool(validate(chosen, lambda host, path: str(host))) is contradicts
    if not contradicts:
        for tier, derived in catalog.derive(chosen)["tiers"].items():
            assert set(access if derived["models"] is None else derived["models"]) == allowed[tier]


def model_in(served: list[dict[str, Any]], name: str) -> bool:
    return any(each["name"] == name for each in served)


def _names_fit(each: dict[str, Any]) -> None:
    """The charts cut names silently: 40 characters of a pool's release, 55 of a worker's, 53 of any release."""
    assert len(each["pool"]) <= 40
    assert len(each["release"]) <= 53
    assert len(each["deployment"]) <= 63


def _values_agree(each: dict[str, Any], values: dict[str, Any]) -> None:
    """What llm-d needs to be equal is equal."""
    pool, worker = values[each["pool"]], values[each["release"]]
    labels = pool["inferencePool"]["modelServers"]["matchLabels"]
    assert labels == worker["modelArtifacts"]["labels"]
    assert labels["llm-d.ai/model"] == each["name"]
    assert worker["modelArtifacts"]["name"] == each["served_name"]
    port = pool["inferencePool"]["targetPorts"][0]["number"]
    container = worker["decode"]["containers"][0]
    assert port == worker["routing"]["servicePort"] == container["ports"][0]["containerPort"]
    assert container["ports"][0]["name"] == container["readinessProbe"]["httpGet"]["port"]
    assert worker["routing"]["proxy"]["enabled"] is False
    assert worker["prefill"] == {"create": False}
    assert worker["fullnameOverride"] + "-decode" == each["deployment"]
    assert ("--enable-force-include-usage" in container["args"]) is (each["engine"] == "vllm")
    assert (worker["decode"]["extraConfig"].get("runtimeClassName") == "nvidia") is (each["gpus"] > 0)
    volumes = {volume["name"] for volume in worker["decode"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    terms = worker["decode"]["extraConfig"]["affinity"]["nodeAffinity"]
    term = terms["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchExpressions"][0]
    assert term == {"key": "kubernetes.io/hostname", "operator": "In", "values": each["hosts"]}


def test_the_longest_list_of_models_fits_into_an_answer_of_envoy() -> None:
    many = [model(f"m-{n}", served_name=f"{n:02}" + "x" * 126) for n in range(15)]
    assert len(derive(many[:8], many[8:])["models_body"]) <= 4096


def test_a_changed_worker_never_waits_for_a_second_gpu() -> None:
    values = derive([model("one"), model("two")], [model("two")])["helmfile"]["values"]
    assert values["ms-one"]["decode"]["strategy"] == {"type": "Recreate"}
    # With two workers one goes on answering.
    assert values["ms-two"]["decode"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_several_workers_on_a_spark_are_spread_evenly() -> None:
    derived = derive([model("one", replicas=4)], [model("one", replicas=4)])
    (each,) = derived["models"]
    assert (each["replicas"], each["replicas_per_host"]) == (4, 2)
    decode = derived["helmfile"]["values"]["ms-one"]["decode"]
    assert decode["replicas"] == 4
    placement = decode["extraConfig"]
    assert "podAntiAffinity" not in placement["affinity"]
    (spread,) = placement["topologySpreadConstraints"]
    assert (spread["maxSkew"], spread["whenUnsatisfiable"]) == (1, "DoNotSchedule")
    # One worker for two Sparks goes to either.
    derived = derive([model("one", replicas=1)], [model("one", replicas=1)])
    assert derived["helmfile"]["values"]["ms-one"]["decode"]["replicas"] == 1
    assert [node["gpu_slots_used"] for node in derived["nodes"].values()] == [0, 1, 1]


def test_releases_of_an_earlier_installation() -> None:
    """The Deployment and its selector, which cannot change, stay as they are."""
    adopted = {"pool": "llm-d-inferencepool", "worker": "llm-d-modelservice", "label": "llama-3-1-8b"}
    derived = derive([model("one", adopt=adopted), model("two")])
    each = derived["models"][0]
    assert (each["pool"], each["release"]) == ("llm-d-inferencepool", "llm-d-modelservice")
    assert (each["picker"], each["deployment"]) == ("llm-d-inferencepool-epp", "llm-d-modelservice-decode")
    values = derived["helmfile"]["values"]["llm-d-modelservice"]
    assert values["fullnameOverride"] == "llm-d-modelservice"
    assert values["modelArtifacts"]["labels"]["llm-d.ai/model"] == "llama-3-1-8b"
    assert [release["name"] for release in derived["helmfile"]["releases"]] == [
        "llm-d-inferencepool",
        "llm-d-modelservice",
        "pool-two",
        "ms-two",
    ]


def test_what_is_told_to_each_engine() -> None:
    values = derive(
        [
            model("v", tool_parser="hermes", grace_seconds=10, memory_fraction=0.4),
            model("s", engine="sglang", tool_parser="qwen25", served_name="qwen", memory_fraction=0.3),
            model("t", engine="trtllm", args=["--max_batch_size=8"]),
            model("c", engine="custom", command=["serve"], args=["--x"]),
        ]
    )["helmfile"]["values"]
    container = {name: values[f"ms-{name}"]["decode"]["containers"][0] for name in "vstc"}
    assert container["v"]["args"] == [
        "--enable-force-include-usage",
        "--gpu-memory-utilization=0.4",
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
    ]
    assert values["ms-v"]["decode"]["terminationGracePeriodSeconds"] == 10
    assert values["ms-s"]["decode"]["terminationGracePeriodSeconds"] == 60
    assert container["s"]["command"] == ["python3", "-m", "sglang.launch_server"]
    assert {"--model-path=org/s", "--served-model-name=qwen", "--port=8000", "--enable-metrics"} <= {
        *container["s"]["args"]
    }
    assert {"--mem-fraction-static=0.3", "--tool-call-parser=qwen25"} <= {*container["s"]["args"]}
    assert container["s"]["startupProbe"]["httpGet"]["path"] == "/health_generate"
    assert container["t"]["command"][:2] == ["/bin/bash", "-c"]
    assert container["t"]["args"][0] == "org/t" and container["t"]["args"][-1] == "--max_batch_size=8"
    assert {"name": "PROMETHEUS_MULTIPROC_DIR", "value": "/dev/shm/prometheus"} in container["t"]["env"]
    assert (container["c"]["command"], container["c"]["args"]) == (["serve"], ["--x"])
    flags = {name: values[f"pool-{name}"]["inferenceExtension"].get("flags", {}) for name in "vstc"}
    assert flags["v"] == flags["c"] == {}
    assert flags["s"]["total-queued-requests-metric"] == "sglang:num_queue_reqs"
    assert flags["t"]["model-server-metrics-path"] == "/prometheus/metrics"


def test_the_token_is_named_only_where_there_is_one() -> None:
    without = derive([model("x")])
    assert without["hf_secret"] is None
    assert "authSecretName" not in without["helmfile"]["values"]["ms-x"]["modelArtifacts"]
    token = "hf_" + "aB3dE5gH7jK9" * 2
    given = derive([model("x")], tokenlabs_hf_token=token)
    assert given["helmfile"]["values"]["ms-x"]["modelArtifacts"]["authSecretName"] == given["hf_secret"] == "hf-token"
    assert token not in json.dumps(given)


def test_workers_bear_the_taints_of_their_own_sparks() -> None:
    chosen = inventory([model("x")], [model("y")])
    chosen.hosts[1].vars["tokenlabs_node_taints"] = [
        {"key": "a", "value": "b", "effect": "NoSchedule"},
        {"key": "c", "effect": "NoExecute"},
    ]
    derived = catalog.derive(chosen)
    assert derived["nodes"]["spark-00"]["taints"] == chosen.hosts[1].vars["tokenlabs_node_taints"]
    values = derived["helmfile"]["values"]
    assert values["ms-x"]["decode"]["tolerations"][1:] == [
        {"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"},
        {"key": "c", "operator": "Exists", "effect": "NoExecute"},
    ]
    assert len(values["ms-y"]["decode"]["tolerations"]) == 1


def test_sources_without_a_mirror() -> None:
    charts = derive([model("x")])["charts"]
    checksum = _release_sets.CHECKSUMS["modelservice"][charts["modelservice"]["version"]]["noarch"]
    assert charts["envoy_gateway"] == {
        "ref": "oci://docker.io/envoyproxy/gateway-helm",
        "repo_url": None,
        "version": "v1.7.5",
        "plain_http": False,
        "sha256": None,
    }
    assert charts["kuadrant_operator"]["ref"] == "kuadrant-operator"
    assert charts["kuadrant_operator"]["repo_url"] == "https://kuadrant.io/helm-charts/"
    helmfile = derive([model("x")])["helmfile"]
    assert helmfile["charts"] == [{"name": name, **charts[name]} for name in ("inferencepool", "modelservice")]
    assert charts["modelservice"]["repo_url"] == "https://llm-d-incubation.github.io/llm-d-modelservice/"
    assert charts["modelservice"]["sha256"] == checksum
    assert [each["chart"] for each in helmfile["releases"]] == ["inferencepool", "modelservice"]


def test_sources_under_a_mirror() -> None:
    mirrors = {
        "charts": "oci://mirror:5000",
        "charts_plain_http": True,
        "downloads": "http://mirror/downloads",
        "pypi": "http://mirror/simple",
    }
    derived = derive([model("x")], tokenlabs_mirrors=mirrors)
    refs = {key: chart["ref"] for key, chart in derived["charts"].items()}
    assert refs["envoy_gateway"] == "oci://mirror:5000/docker.io/envoyproxy/gateway-helm"
    assert refs["kuadrant_operator"] == "oci://mirror:5000/kuadrant.io/helm-charts/kuadrant-operator"
    assert refs["inferencepool"] == (
        "oci://mirror:5000/registry.k8s.io/gateway-api-inference-extension/charts/inferencepool"
    )
    assert all(chart["plain_http"] and chart["repo_url"] is None for chart in derived["charts"].values())
    # A mirror may have packed it itself.
    assert all(chart["sha256"] is None for chart in derived["helmfile"]["charts"])
    helm = derived["downloads"]["helm"]["amd64"]
    assert helm["url"] == "http://mirror/downloads/get.helm.sh/helm-v3.19.5-linux-amd64.tar.gz"
    assert derived["manifests"]["gateway_api"]["url"].startswith("http://mirror/downloads/github.com/kubernetes-sigs/")
    assert derived["pypi_index"] == "http://mirror/simple"
    outside = [url for url in _urls(derived) if "://mirror" not in url and not url.startswith("hf://")]
    assert outside == []


def _urls(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [url for item in value.values() for url in _urls(item)]
    if isinstance(value, list):
        return [url for item in value for url in _urls(item)]
    return [value] if isinstance(value, str) and "://" in value else []


def test_a_checksum_holds_for_its_version_only() -> None:
    given = "f" * 64
    helm = derive([model("x")])["downloads"]["helm"]
    assert helm["arm64"]["sha256"] and helm["arm64"]["sha256"] != helm["amd64"]["sha256"]
    other = derive([model("x")], tokenlabs_versions={"helm": "v3.20.2"})["downloads"]["helm"]
    assert other["amd64"]["sha256"] is None
    assert "v3.20.2" in other["amd64"]["url"] and other["amd64"]["checksums_url"].endswith(".sha256sum")
    own = derive([model("x")], tokenlabs_checksums={"helm": {"amd64": given}, "gateway_api": {"noarch": given}})
    assert own["downloads"]["helm"]["amd64"]["sha256"] == own["manifests"]["gateway_api"]["sha256"] == given
    assert own["downloads"]["helm"]["arm64"]["sha256"] == helm["arm64"]["sha256"]


def test_an_overridden_version_moves_all_charts_of_the_component() -> None:
    charts = derive([model("x")], tokenlabs_versions={"envoy_gateway": "v1.7.9"})["charts"]
    assert charts["envoy_gateway"]["version"] == charts["envoy_gateway_crds"]["version"] == "v1.7.9"


@pytest.mark.parametrize("name", RELEASES)
def test_every_release_set_is_coherent(name: str) -> None:
    """It breaks no rule but those that it says it strains, over its whole range of Kubernetes versions."""
    release = RELEASES[name]
    assert release.name == name
    oldest, newest = (int(each.split(".")[1]) for each in (release.oldest_kubernetes, release.newest_kubernetes))
    minors = [f"1.{number}" for number in range(oldest, newest + 1)]
    assert release.kubernetes_channel.split("/")[0] in minors
    for minor in minors:
        broken = {rule.id for rule in broken_rules({**release.versions, "kubernetes": minor})}
        assert broken == set(release.strains)
    for outside in (f"1.{oldest - 1}", f"1.{newest + 1}"):
        broken = {rule.id for rule in broken_rules({**release.versions, "kubernetes": outside})}
        assert broken > set(release.strains), outside
    assert all(release.strains.values())
    assert {chart.component for chart in CHARTS.values()} | set(MANIFESTS) | set(DOWNLOADS) <= set(release.versions)
    for image in release.images.values():
        assert not image.endswith(":latest") and ":" in image


def test_every_line_of_a_set_says_where_it_comes_from() -> None:
    components = {name for told in _release_sets.SETS.values() for name in [*told["versions"], *told["images"]]}
    assert components == set(_release_sets.ORIGINS)
    for origin in _release_sets.ORIGINS.values():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", origin["project"]) and origin["tag"] and origin["path"]


def test_the_sets_are_data_alone() -> None:
    """The lab reads the file without the collection."""
    told = runpy.run_path(_release_sets.__file__)
    assert told["SETS"] == _release_sets.SETS
    for component, versions in told["CHECKSUMS"].items():
        for version, sums in versions.items():
            assert any(release.versions.get(component) == version for release in RELEASES.values())
            assert all(re.fullmatch("[0-9a-f]{64}", text) for text in sums.values())


def test_a_set_that_strains_a_rule_warns_and_is_taken(tmp_path: Path) -> None:
    answer = load(write(tmp_path, {"group_vars/all/main.yml": "tokenlabs_release: '2026.04'\n"}))
    warnings = [line for line in answer["summary"] if line.startswith("Warning: ")]
    assert len(warnings) == 2
    assert "GHSA" in warnings[0] and "last of its line" in warnings[0]
    assert (
        load(write(tmp_path, {"group_vars/all/main.yml": "tokenlabs_release: '2026.07'\n"}))["catalog"]["release"][
            "risks"
        ]
        == []
    )


def test_a_chart_from_elsewhere() -> None:
    source = {"kuadrant_operator": {"repository": "oci://registry.example/charts", "name": "kuadrant"}}
    chart = derive([model("x")], tokenlabs_charts=source)["charts"]["kuadrant_operator"]
    assert chart["ref"] == "oci://registry.example/charts/kuadrant" and chart["repo_url"] is None
    assert chart["sha256"] is None, "the published checksum is not that of another source"
    assert derive([model("x")])["charts"]["kuadrant_operator"]["sha256"].startswith("08ec9696")
    mirrored = derive([model("x")], tokenlabs_mirrors={"charts": "oci://mirror:5000"})["charts"]
    assert mirrored["kuadrant_operator"]["sha256"] is None
    pinned = {"kuadrant_operator": {"noarch": "a" * 64}}
    assert derive([model("x")], tokenlabs_checksums=pinned)["charts"]["kuadrant_operator"]["sha256"] == "a" * 64


def test_images_from_elsewhere() -> None:
    digest = "@sha256:" + "0" * 64
    images = derive([model("x")], tokenlabs_images={"epp": f"registry.example:5000/llm-d/epp:v9{digest}"})["images"]
    assert images["epp"] == {"hub": "registry.example:5000/llm-d", "name": "epp", "tag": f"v9{digest}"}
    assert images["redis"] == RELEASES["2026.07"].images["redis"]


def test_the_newest_pool_chart_has_other_names_for_its_image() -> None:
    values = derive([model("x")], tokenlabs_release="2026.08")["helmfile"]["values"]["pool-x"]["inferenceExtension"]
    assert values["image"]["registry"] == "ghcr.io"
    assert values["image"]["repository"] == "llm-d/llm-d-inference-scheduler"
    assert "hub" not in values["image"] and values["failureMode"] == "FailClose"


def test_every_rule_has_a_source_and_can_be_broken() -> None:
    """A rule that nothing can break guards nothing."""
    good = {**RELEASES["2026.07"].versions, "kubernetes": "1.34"}
    candidates = {
        "ai_gateway": ["v0.4.0", "v0.5.0", "v0.6.0", "v0.7.0", "v1.1.0"],
        "envoy_gateway": ["v1.5.0", "v1.6.7", "v1.7.5", "v1.8.3", "v1.9.0"],
        "gateway_api": ["v1.3.0", "v1.4.1", "v1.5.1"],
        "kuadrant_operator": ["1.4.1", "1.4.3", "1.5.2"],
        "inferencepool": ["v1.2.0", "v1.3.0", "v1.5.0", "v1.6.0"],
        "modelservice": ["v0.4.5", "v0.4.12"],
        "helm": ["v3.17.0", "v4.0.0"],
        "helmfile": ["v0.166.0", "v1.8.0"],
        "kubernetes": ["1.31", "1.34", "1.36"],
    }
    broken: set[int] = set()
    for first, versions in candidates.items():
        for version in versions:
            for second, others in candidates.items():
                for other in others:
                    choice = {**good, first: version, second: other}
                    broken |= {id(rule) for rule in broken_rules(choice)}
    assert [rule.reason for rule in RULES if id(rule) not in broken] == []
    assert all(rule.source and rule.reason and rule.remedy for rule in RULES)


def test_a_summary_for_people(tmp_path: Path) -> None:
    lines = load(write(tmp_path, {}))["summary"]
    assert lines[0] == "Release 2026.07 on Kubernetes 1.34/stable"
    assert "Model nvidia/Llama-3.1-8B-Instruct (llama-8b) on spark-01" in lines
    assert "Tier free: 10 requests/1m, 100 requests/24h, 5000 tokens/1m; llama-8b; 1 tenants" in lines
    assert lines[-1] == "Tenants: 2, 1 suspended"


def test_tenants_stay_out_of_the_catalog(tmp_path: Path) -> None:
    assert "initech" not in json.dumps(load(write(tmp_path, {}))["catalog"])
