# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told, against its operator's real definitions; values against the real charts' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.plugins.loader import init_plugin_loader
from ansible_collections.tokenlabs.platform.plugins.filter import autoscaling_objects
from ansible_collections.tokenlabs.platform.plugins.filter.observability_objects import objects
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import CHARTS, RELEASES

from lab.world import publish
from tests.contract.crds import Definitions
from tests.contract.test_roles import render
from tests.unit.plugins.catalog.test_catalog import derive, model

# What charts are given that are not stored, only their own values are.
VALUES: dict[str, Callable[[], dict[str, Any]]] = {
    "kube_prometheus_stack": lambda: render("observability", "__observability_values", catalog()),
    "prometheus_adapter": lambda: autoscaling_objects.objects(catalog())["values"],
}


def catalog(way: str = "envoy") -> dict[str, Any]:
    chosen = {"prometheus": "existing", "namespace": "mon", "url": "http://p:9090", "labels": {"release": "prom"}}
    return derive([model("a"), model("b")], tokenlabs_token_limits=way, tokenlabs_observability=chosen)


@pytest.mark.parametrize("way", ["envoy", "kuadrant"])
def test_every_monitor_and_rule_is_of_the_right_form(way: str, definitions: Definitions) -> None:
    known = [body for body in objects(catalog(way))["present"] if definitions.knows(body)]
    assert {body["kind"] for body in known} == {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert [definitions.errors(body) for body in known] == [[]] * len(known)


def test_an_existing_prometheus_finds_them_by_its_labels() -> None:
    for body in objects(catalog())["present"]:
        if body["kind"] in ("ServiceMonitor", "PodMonitor", "PrometheusRule"):
            assert (body["metadata"]["namespace"], body["metadata"]["labels"]["release"]) == ("mon", "prom")


def unknown(wanted: Any, given: Any, path: str = "") -> list[str]:
    """Keys that the chart's own values do not have; where those are empty, anything goes."""
    if not isinstance(wanted, dict) or not isinstance(given, dict) or not given:
        return []
    found = [f"{path}.{key}" for key in wanted if key not in given]
    return found + [
        each for key in wanted if key in given for each in unknown(wanted[key], given[key], f"{path}.{key}")
    ]


def chart_values(upstream: Path, chart: str) -> dict[str, Any]:
    told = CHARTS[chart]
    folder = upstream / "values" / f"{told.name}-{RELEASES['2026.07'].versions[told.component]}"
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} under LAB_UPSTREAM/values")
    return yaml.safe_load((folder / "values.yaml").read_text())


@pytest.mark.parametrize("chart", VALUES)
def test_the_charts_know_every_value(chart: str, upstream: Path) -> None:
    init_plugin_loader()
    given = chart_values(upstream, chart)
    values = VALUES[chart]()
    assert unknown(values, given) == []
    assert unknown({**values, "prometheusOperatr": {}}, given) == [".prometheusOperatr"]


@pytest.mark.parametrize("chart", ["kube_prometheus_stack", "prometheus_adapter"])
def test_the_labs_stand_ins_have_no_values_of_their_own(chart: str, upstream: Path) -> None:
    own = yaml.safe_load((publish.CHARTS / CHARTS[chart].name / "values.yaml").read_text())
    assert unknown(own, chart_values(upstream, chart)) == []
