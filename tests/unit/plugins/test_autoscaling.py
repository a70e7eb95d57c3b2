# SPDX-License-Identifier: GPL-3.0-or-later
"""Autoscalers that can act: the right Deployment, metrics as the engine exports them, and a place for each worker."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.filter.autoscaling_objects import objects
from ansible_collections.tokenlabs.platform.plugins.module_utils import _catalog, _inventory_rules

from lab.gateway import modelserver
from tests.unit.plugins.catalog.test_catalog import derive, inventory, model

STACK = {"tokenlabs_observability": {"prometheus": "stack"}}


def scaled(name: str = "a", **changes: Any) -> dict[str, Any]:
    return model(name, **{"replicas": 1, "max_replicas": 2, "memory_fraction": 0.3, **changes})


def test_it_scales_the_models_own_deployment_between_its_bounds() -> None:
    catalog = derive([scaled(), model("b", memory_fraction=0.3)], [scaled()], **STACK)
    (found,) = objects(catalog)["present"]
    (mine,) = [each for each in catalog["models"] if each["name"] == "a"]
    assert found["spec"]["scaleTargetRef"]["name"] == mine["deployment"] == "ms-a-decode"
    assert (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) == (1, 2)
    # The chart keeps the least: helm leaves alone what it has not changed itself.
    assert catalog["helmfile"]["values"]["ms-a"]["decode"]["replicas"] == 1
    assert catalog["helmfile"]["values"]["ms-a"]["decode"]["terminationGracePeriodSeconds"] == 300


def test_metrics_are_those_that_the_engine_exports_and_the_adapter_names() -> None:
    made = objects(derive([scaled()], [scaled()], **STACK))
    rules = made["values"]["rules"]["custom"]
    asked = [each["pods"]["metric"]["name"] for each in made["present"][0]["spec"]["metrics"]]
    assert asked == [rule["name"]["as"] for rule in rules]
    told = modelserver.metrics_text(modelserver.Stats(), "x")
    exported = set(re.findall(r"^([a-z_:]+)\{", told, flags=re.MULTILINE))
    for rule in rules:
        (series,) = re.findall(r'__name__="([^"]+)"', rule["seriesQuery"])
        assert series in exported
        assert re.fullmatch(rule["name"]["matches"], series)
        # Without it the last series of a pod would be taken for all.
        assert rule["metricsQuery"].endswith("by (<<.GroupBy>>)")
    assert made["values"]["rules"]["default"] is False
    assert made["values"]["prometheus"] == {
        "url": "http://prometheus-operated.monitoring.svc",
        "port": 9090,
        "path": "",
    }


def test_sglang_has_names_of_its_own() -> None:
    made = objects(derive([scaled(engine="sglang")], [scaled(engine="sglang")], **STACK))
    names = [each["pods"]["metric"]["name"] for each in made["present"][0]["spec"]["metrics"]]
    assert names == ["sglang_num_queue_reqs", "sglang_token_usage"]


def test_workers_are_added_fast_and_taken_away_slowly() -> None:
    behavior = objects(derive([scaled()], [scaled()], **STACK))["present"][0]["spec"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert [behavior[way]["policies"][0]["periodSeconds"] for way in ("scaleUp", "scaleDown")] == [90, 120]


def problems(*sparks: list[dict[str, Any]], slots: int, **shared: Any) -> list[str]:
    chosen = inventory(*sparks, **shared)
    for host in chosen.sparks:
        host.vars["tokenlabs_gpu_slots"] = slots
    return [f"{each.path} {each.reason}" for each in _inventory_rules.validate(chosen, lambda host, path: str(host))]


def test_never_above_the_slots_that_other_models_leave() -> None:
    assert problems([scaled()], [scaled()], slots=1, **STACK) == []
    # The second Spark's only slot is another model's.
    told = problems([scaled()], [scaled(), model("b", memory_fraction=0.3)], slots=1, **STACK)
    assert len(told) == 1 and "needs 2 GPU slots" in told[0]
    assert problems([scaled()], [scaled(), model("b", memory_fraction=0.3)], slots=2, **STACK) == []


@pytest.mark.parametrize(
    ("one", "shared", "reason"),
    [
        (scaled(), STACK, "above the GPU slots of spark-00, which hold 1"),
        (scaled(engine="trtllm"), STACK, "cannot be for the engine trtllm, which tells nobody of its queue"),
        (scaled(), {}, "needs a Prometheus"),
        (scaled(max_replicas=2, replicas=2), STACK, "there are 2 replicas from the start"),
    ],
)
def test_what_could_never_act_is_refused(one: dict[str, Any], shared: dict[str, Any], reason: str) -> None:
    assert any(reason in told for told in problems([one], slots=1, **shared))


def test_an_autoscaler_whose_model_is_gone_goes_too() -> None:
    live = [{"metadata": {"name": name, "namespace": "token-labs"}} for name in ("ms-a", "ms-gone")]
    made = objects(derive([scaled()], [scaled()], **STACK), live)
    assert [each["metadata"]["name"] for each in made["absent"]] == ["ms-gone"]
    assert objects(derive([model("a")], **STACK), live)["present"] == []


def test_several_workers_on_a_spark_are_spread() -> None:
    catalog = derive([scaled(max_replicas=4)], [scaled(max_replicas=4)], **STACK)
    placement = catalog["helmfile"]["values"]["ms-a"]["decode"]["extraConfig"]
    assert "podAntiAffinity" not in placement["affinity"] and placement["topologySpreadConstraints"]
    assert _catalog.derive(inventory([scaled()], [scaled()], **STACK))["models"][0]["replicas_per_host"] == 1
