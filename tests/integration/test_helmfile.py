# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module helmfile with real helm, helm-diff and helmfile against a real API server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.tokenlabs.platform.plugins.module_utils import _charts
from ansible_collections.tokenlabs.platform.plugins.modules import helmfile

from tests.integration import apiserver
from tests.integration.charts import Source
from tests.integration.conftest import RunModule

CONFIG = (
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {text: {{ .Values.text | quote }}}\n"
)
SECRET = """\
---
apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}}
stringData: {key: canary-{{ .Values.text }}}
"""
LABEL = "tokenlabs-managed=test"


class Releases:
    """A helmfile of releases of one small chart, kept in variables as the roles do."""

    def __init__(self, folder: Path, namespace: str, tools: Path):
        self.namespace = namespace
        self.folder = folder
        self.chart = folder / "chart"
        (self.chart / "templates").mkdir(parents=True)
        (self.chart / "Chart.yaml").write_text("apiVersion: v2\nname: small\nversion: 0.1.0\n")
        (self.chart / "values.yaml").write_text("text: one\n")
        (self.chart / "templates" / "config.yaml").write_text(CONFIG + SECRET)
        plugin = folder / "plugins" / "helm-diff"
        (plugin / "bin").mkdir(parents=True)
        (plugin / "bin" / "diff").symlink_to(tools / "helm-diff")
        (plugin / "plugin.yaml").write_text('name: diff\nversion: 3.9.14\ncommand: "$HELM_PLUGIN_DIR/bin/diff"\n')
        self.tools = tools

    def arguments(self, texts: dict[str, str], **more: Any) -> dict[str, Any]:
        releases = [
            {
                "name": name,
                "namespace": self.namespace,
                "chart": str(self.chart),
                "values": [f"values/{name}.yaml"],
            }
            for name in texts
        ]
        homes = {f"HELM_{kind}_HOME": str(self.folder / kind) for kind in ("CACHE", "CONFIG", "DATA")}
        return {
            "directory": str(self.folder / "helmfile"),
            "definition": {
                "helmDefaults": {"syncReleaseLabels": True},
                "commonLabels": dict([LABEL.split("=")]),
                "releases": releases,
            },
            "values": {name: {"text": text} for name, text in texts.items()},
            "prune_label": LABEL,
            "binary_path": str(self.tools / "helmfile"),
            "helm_path": str(self.tools / "helm"),
            "environment_vars": {"HELM_PLUGINS": str(self.folder / "plugins"), "HELMFILE_CACHE_HOME": "/tmp", **homes},
            **more,
        }

    def ids(self, *names: str) -> list[str]:
        return [f"{self.namespace}/{name}" for name in names]


@pytest.fixture
def releases(tmp_path: Path, namespace: str) -> Releases:
    tools = apiserver.find_tools()
    missing = [name for name in ("helm", "helm-diff", "helmfile") if tools is None or not (tools / name).exists()]
    if missing or tools is None:
        pytest.skip(f"no {', '.join(missing)} beside kube-apiserver: build the lab's tools first")
    return Releases(tmp_path, namespace, tools)


def text(api: apiserver.ApiServer, releases: Releases, name: str) -> str:
    found = api.raw("GET", f"/api/v1/namespaces/{releases.namespace}/configmaps/{name}")
    return found["data"]["text"]


def test_the_life_of_releases(api: apiserver.ApiServer, run: RunModule, releases: Releases) -> None:
    both = releases.arguments({"a": "one", "b": "one"})

    mark = api.mark()
    rehearsed = run(helmfile, check=True, diff=True, **both)
    assert rehearsed["updated"] == releases.ids("a", "b")
    assert api.writes(mark) == []
    assert not (releases.folder / "helmfile").exists()

    first = run(helmfile, **both)
    assert (first["changed"], first["updated"], first["removed"]) == (True, releases.ids("a", "b"), [])
    written = yaml.safe_load((releases.folder / "helmfile" / "helmfile.yaml").read_text())
    assert [release["name"] for release in written["releases"]] == ["a", "b"]

    mark = api.mark()
    second = run(helmfile, diff=True, **both)
    assert (second["changed"], second["updated"], second["removed"]) == (False, [], [])
    assert "diff" not in second
    assert api.writes(mark) == []

    other = releases.arguments({"a": "one", "b": "two"})
    mark = api.mark()
    rehearsed = run(helmfile, check=True, diff=True, **other)
    assert rehearsed["updated"] == releases.ids("b")
    assert "two" in rehearsed["diff"]["prepared"]
    assert api.writes(mark) == []
    changed = run(helmfile, **other)
    assert changed["updated"] == releases.ids("b")
    assert text(api, releases, "b") == "two"

    fewer = releases.arguments({"a": "one"})
    rehearsed = run(helmfile, check=True, **fewer)
    assert (rehearsed["changed"], rehearsed["removed"]) == (True, releases.ids("b"))
    removed = run(helmfile, **fewer)
    assert removed["removed"] == releases.ids("b")
    assert not (releases.folder / "helmfile" / "values" / "b.yaml").exists()

    gone = run(helmfile, **{**fewer, "state": "absent"})
    assert gone["removed"] == releases.ids("a")
    again = run(helmfile, **{**fewer, "state": "absent"})
    assert (again["changed"], again["removed"]) == (False, [])


def test_what_was_changed_by_hand_is_seen_and_put_right(
    api: apiserver.ApiServer, run: RunModule, releases: Releases
) -> None:
    arguments = releases.arguments({"a": "one", "b": "one"})
    run(helmfile, **arguments)
    path = f"/api/v1/namespaces/{releases.namespace}/configmaps"
    api.raw("PATCH", f"{path}/a", {"data": {"text": "by hand"}}, content_type="application/merge-patch+json")
    api.raw("DELETE", f"{path}/b")
    rehearsed = run(helmfile, check=True, diff=True, **arguments)
    assert rehearsed["updated"] == releases.ids("a", "b")
    assert "by hand" in rehearsed["diff"]["prepared"]
    assert text(api, releases, "a") == "by hand"
    repaired = run(helmfile, **arguments)
    assert repaired["updated"] == releases.ids("a", "b")
    assert (text(api, releases, "a"), text(api, releases, "b")) == ("one", "one")
    mark = api.mark()
    assert run(helmfile, **arguments)["changed"] is False
    assert api.writes(mark) == []


def test_a_release_made_by_hand_is_taken_over_by_its_name(
    api: apiserver.ApiServer, run: RunModule, releases: Releases
) -> None:
    """It is upgraded in its place, and from then on removed when it leaves the file."""
    command = ["install", "old", str(releases.chart), "--namespace", releases.namespace, "--set", "text=by hand"]
    subprocess.run([releases.tools / "helm", *command, "--kubeconfig", api.kubeconfig], check=True, capture_output=True)
    uid = api.raw("GET", f"/api/v1/namespaces/{releases.namespace}/configmaps/old")["metadata"]["uid"]
    taken = run(helmfile, **releases.arguments({"old": "one"}))
    assert taken["updated"] == releases.ids("old")
    found = api.raw("GET", f"/api/v1/namespaces/{releases.namespace}/configmaps/old")
    assert (found["metadata"]["uid"], found["data"]["text"]) == (uid, "one")
    assert run(helmfile, **releases.arguments({}))["removed"] == releases.ids("old")


def test_secrets_are_in_no_output(run: RunModule, releases: Releases) -> None:
    for wanted in ("one", "two"):
        for check in (True, False):
            result = run(helmfile, check=check, diff=True, **releases.arguments({"a": wanted}))
            assert "canary" not in result.output


def test_a_chart_that_the_server_refuses_names_its_release(run: RunModule, releases: Releases) -> None:
    (releases.chart / "templates" / "config.yaml").write_text(CONFIG.replace("ConfigMap", "NoSuchKind"))
    result = run(helmfile, **releases.arguments({"a": "one"}))
    assert result["failed"] is True
    assert "a" in result["failed_releases"]
    assert "NoSuchKind" in result["msg"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"binary_path": "/nowhere/helmfile"}, "helmfile is not installed (looked at /nowhere/helmfile)"),
        ({"helm_path": "/nowhere/helm"}, "helm is not installed (looked at /nowhere/helm)"),
        ({"definition": None, "file": "/nowhere/helmfile.yaml"}, "there is no helmfile /nowhere/helmfile.yaml"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(
    run: RunModule, releases: Releases, change: dict[str, Any], words: str
) -> None:
    arguments = {**releases.arguments({"a": "one"}), **change}
    result = run(helmfile, **{key: value for key, value in arguments.items() if value is not None})
    assert result["failed"] is True
    assert words in result["msg"]


def test_a_missing_plugin_and_a_missing_chart_are_told_apart(run: RunModule, releases: Releases) -> None:
    run(helmfile, **releases.arguments({"a": "one"}))
    without = releases.arguments({"a": "two"})
    without["environment_vars"]["HELM_PLUGINS"] = str(releases.folder / "nothing")
    assert "helm-diff is not installed" in run(helmfile, **without)["msg"]
    elsewhere = json.loads(json.dumps(releases.arguments({"a": "two"})))
    elsewhere["definition"]["releases"][0] |= {"chart": "oci://127.0.0.1:1/charts/small", "version": "0.1.0"}
    assert "the chart source does not deliver this chart" in run(helmfile, **elsewhere)["msg"]


def test_a_chart_by_name_is_fetched_once_and_held_against_its_checksum(
    api: apiserver.ApiServer, run: RunModule, releases: Releases, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_charts, "PAUSE", 0.01)
    right = source.offer("1.0.0")
    chart = {"name": "known", "ref": "small", "repo_url": source.address, "version": "1.0.0"}
    arguments = releases.arguments({"a": "one", "b": "one"})
    for each in arguments["definition"]["releases"]:
        each["chart"] = "known"
    mark = api.mark()
    wrong = run(helmfile, **arguments, charts=[{**chart, "sha256": "0" * 64}])
    assert wrong["failed"] and right in wrong["msg"] and "tokenlabs_checksums" in wrong["msg"]
    assert api.writes(mark) == [] and not (releases.folder / "helmfile").exists()

    charts = [{**chart, "sha256": right}, {**chart, "name": "not asked for", "version": "2.0.0"}]
    assert run(helmfile, check=True, **arguments, charts=charts)["updated"] == releases.ids("a", "b")
    assert not (releases.folder / "CACHE" / "charts").exists()
    assert run(helmfile, **arguments, charts=charts)["updated"] == releases.ids("a", "b")
    assert text(api, releases, "b") == "one"

    source.asked.clear()
    source.failures = 100
    assert not run(helmfile, **arguments, charts=charts)["changed"]
    # To be rid of releases, nobody needs their chart.
    assert run(helmfile, **arguments, state="absent")["removed"] == releases.ids("a", "b")
    assert source.asked == []
