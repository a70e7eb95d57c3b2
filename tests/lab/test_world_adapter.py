# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in for prometheus-adapter: it has upstream's traps, and no metric that nobody would have scraped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.world import adapter

RULE = {
    "seriesQuery": '{__name__="vllm:num_requests_waiting",namespace!="",pod!=""}',
    "name": {"matches": "^vllm:num_requests_waiting$", "as": "vllm_num_requests_waiting"},
    "metricsQuery": "sum(avg_over_time(<<.Series>>{<<.LabelMatchers>>}[30s])) by (<<.GroupBy>>)",
}
POD: dict[str, Any] = {
    "metadata": {"name": "ms-a-decode-x", "namespace": "token-labs", "labels": {"llm-d.ai/model": "a"}},
    "spec": {"containers": [{"name": "vllm", "ports": [{"name": "http", "containerPort": 8000}]}]},
    "status": {"podIP": "10.1.0.9"},
}
MONITOR: dict[str, Any] = {
    "metadata": {"name": "m", "namespace": "monitoring"},
    "spec": {
        "namespaceSelector": {"matchNames": ["token-labs"]},
        "selector": {"matchExpressions": [{"key": "llm-d.ai/model", "operator": "In", "values": ["a", "b"]}]},
        "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}],
    },
}


def parsed(**changes: Any) -> list[adapter.Rule]:
    return adapter.rules(yaml.safe_dump({"rules": [{**RULE, **changes}]}))


def test_a_rule_names_a_series_and_combines_it() -> None:
    assert parsed() == [adapter.Rule("vllm:num_requests_waiting", "vllm_num_requests_waiting", "sum")]


def test_without_a_grouping_the_last_series_is_taken_for_all() -> None:
    assert parsed(metricsQuery="sum(<<.Series>>{<<.LabelMatchers>>})")[0].combine == "last"


def test_a_name_that_does_not_match_is_no_rule() -> None:
    assert parsed(name={"matches": "^vllm:gpu_cache_usage_perc$", "as": "x"}) == []


def test_a_pod_is_read_where_a_monitor_selects_it() -> None:
    assert list(adapter.places(POD, [MONITOR])) == ["http://10.1.0.9:8000/metrics"]


@pytest.mark.parametrize(
    "change",
    [
        lambda monitor: monitor["spec"]["namespaceSelector"].update(matchNames=["other"]),
        lambda monitor: monitor["spec"]["selector"]["matchExpressions"][0].update(values=["b"]),
        lambda monitor: monitor["spec"]["podMetricsEndpoints"][0].update(port="metrics"),
    ],
)
def test_a_monitor_that_is_wrong_reads_nothing(change: Any) -> None:
    monitor = copy.deepcopy(MONITOR)
    change(monitor)
    assert list(adapter.places(POD, [monitor])) == []


def test_values_of_one_series_only() -> None:
    text = '# TYPE a gauge\na{x="1"} 2\na{x="2"} 3.5\nab 9\n'
    assert adapter.values(text, "a") == [2.0, 3.5]


class Pods:
    """An API server with one pod and one monitor."""

    def request(self, _method: str, path: str, **_more: Any) -> dict[str, Any]:
        return {"items": [MONITOR if path == adapter.MONITORS else POD]}


@pytest.mark.parametrize("every", ["*", "%2A", "ms-a-decode-x"])
def test_all_pods_are_an_asterisk_which_the_api_server_encodes(
    every: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"rules": [RULE]}))
    monkeypatch.setattr(adapter, "fetch", lambda place: 'vllm:num_requests_waiting{engine="0"} 3\n')
    found = adapter.Adapter(Pods(), tmp_path / "config.yaml")  # type: ignore[arg-type]
    path = f"{adapter.ROOT}/namespaces/token-labs/pods/{every}/vllm_num_requests_waiting?labelSelector=a%3Db"
    (item,) = (found.answer(path) or {})["items"]
    assert (item["describedObject"]["name"], item["value"]) == ("ms-a-decode-x", "3000m")
    assert found.answer(path.replace("waiting", "running")) is None
