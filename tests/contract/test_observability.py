# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told, against its operator's real definitions; values against the real charts' own."""

from __future__ import annotations

import subprocess
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


# Monitor -> the release in whose real chart its Service is.
RELEASES_OF = {
    "tokenlabs-kuadrant-operator": ("kuadrant-operator", "kuadrant_operator"),
    "tokenlabs-envoy-gateway": ("eg", "envoy_gateway"),
    "tokenlabs-ai-gateway": ("aieg", "ai_gateway"),
    "tokenlabs-pickers": ("pool-a", "inferencepool"),
}


@pytest.mark.parametrize("name", RELEASES_OF)
def test_the_real_charts_have_what_the_monitors_select(name: str, upstream: Path, helm: str, tmp_path: Path) -> None:
    release, chart = RELEASES_OF[name]
    told, made = CHARTS[chart], catalog()
    archive = upstream / "charts" / f"{told.name}-{RELEASES['2026.07'].versions[told.component]}.tgz"
    if not archive.exists():
        pytest.skip(f"no chart {archive.name} under LAB_UPSTREAM/charts")
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(made["helmfile"]["values"].get(release) or {}))
    ran = subprocess.run(
        [helm, "template", release, str(archive), "--values", str(values), "--skip-crds"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    services = [each for each in yaml.safe_load_all(ran.stdout) if each and each["kind"] == "Service"]
    monitors = [each for each in objects(made)["present"] if each["kind"] == "ServiceMonitor"]
    (monitor,) = [each for each in monitors if each["metadata"]["name"] == name]
    found = [each for each in services if selected(monitor["spec"]["selector"], each["metadata"].get("labels") or {})]
    ports = {port["name"] for each in found for port in each["spec"]["ports"]}
    assert {each["port"] for each in monitor["spec"]["endpoints"]} <= ports, [
        each["metadata"]["name"] for each in services
    ]


def selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return (selector.get("matchLabels") or {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions") or []
    )
