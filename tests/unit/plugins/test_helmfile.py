# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""helmfile as a table: which commands run, what they print, what the module makes of it.

The outputs are those of helmfile 1.8.0, helm 3.19.5 and helm-diff 3.9.14 against a real API server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _drift as drift
from ansible_collections.tokenlabs.platform.plugins.module_utils import _helmfile as hf

TOOL = ["helmfile", "--file", "f.yaml", "--helm-binary", "helm", "--no-color", "--allow-no-matching-release"]
PLAN = ["--detailed-exitcode", "--skip-diff-on-install", "--suppress-secrets", "--context", "3"]
THREE_WAY = ["--diff-args", "--three-way-merge"]
LIST = [*TOOL, "list", "--skip-charts", "--output", "json"]
DIFF = [*TOOL, "diff", *PLAN]
APPLY = [*TOOL, "apply", *PLAN]
DESTROY = [*TOOL, "destroy", "--skip-charts"]
INSTALLED = ["helm", "list", "--all-namespaces", "--all", "--max", "0", "--output", "json"]
LABELLED = [*INSTALLED, "--selector", "tokenlabs-managed=llm-d"]


def uninstall(name: str) -> list[str]:
    return ["helm", "uninstall", name, "--namespace", "token-labs"]


def sync(name: str) -> list[str]:
    return [*TOOL, "--selector", f"name={name},namespace=token-labs", "sync", "--skip-needs"]


def declared(*names: str, retired: tuple[str, ...] = ()) -> str:
    return json.dumps(
        [
            {"name": name, "namespace": "token-labs", "enabled": True, "installed": name not in retired, "labels": ""}
            for name in (*names, *retired)
        ]
    )


def installed(**revisions: int | str) -> str:
    """ms_x=3 is ms-x in revision 3; ms_x="failed 3" is one whose last upgrade failed."""
    found = []
    for name, told in revisions.items():
        status, _, revision = str(told).rpartition(" ")
        found.append(
            {
                "name": name.replace("_", "-"),
                "namespace": "token-labs",
                "revision": revision,
                "status": status or "deployed",
                "chart": "x-1",
            }
        )
    return json.dumps(found)


AFFECTED = """\
Listing releases matching ^pool-sim$
pool-sim	token-labs	2       	2026-11-21 11:53:36.03777626 +0000 UTC	deployed	inferencepool-v1.3.0	v1.3.0
Affected releases are:
  ms-sim (oci://mirror.example:5000/llm-d-modelservice) UPDATED

Identified at least one change
"""
DIFF_TEXT = """\
Comparing release=pool-sim, chart=/tmp/pool, namespace=token-labs
Comparing release=ms-sim, chart=/tmp/ms, namespace=token-labs
token-labs, ms-sim-decode, Deployment (apps) has changed:
-   replicas: 3
+   replicas: 1
"""
TEXT_ALONE = "token-labs, ms-sim-decode, Deployment (apps) has changed:\n-   replicas: 3\n+   replicas: 1"


@dataclass
class Case:
    """(command, (rc, out, err)) in the order in which they must run."""

    script: list[tuple[list[str], tuple[int, str, str]]]
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    diff: str = ""
    check: bool = False
    label: str | None = None
    state: str = "present"
    drifted: str = ""
    until: int = 99  # the revision that puts the drift right


def said(out: str = "", err: str = "", rc: int = 0) -> tuple[int, str, str]:
    return rc, out, err


CASES = {
    "nothing to do": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim=2))),
            (APPLY, said(DIFF_TEXT.splitlines()[0])),
        ]
    ),
    "check, nothing to do": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim=2))),
            (DIFF, said(err="No affected releases\n")),
        ],
        check=True,
    ),
    "check, nothing installed yet": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said("[]")),
            (DIFF, said(err=AFFECTED, rc=2)),
        ],
        updated=["token-labs/ms-sim"],
        check=True,
    ),
    "first installation": Case(
        [
            (LIST, said(declared("pool-sim", "ms-sim"))),
            (INSTALLED, said("[]")),
            (APPLY, said(rc=2)),
            (INSTALLED, said(installed(pool_sim=1, ms_sim=1))),
        ],
        updated=["token-labs/ms-sim", "token-labs/pool-sim"],
    ),
    "an upgrade names only what got a new revision": Case(
        [
            (LIST, said(declared("pool-sim", "ms-sim"))),
            (INSTALLED, said(installed(pool_sim=1, ms_sim=1))),
            (APPLY, said(DIFF_TEXT, rc=2)),
            (INSTALLED, said(installed(pool_sim=1, ms_sim=2))),
        ],
        updated=["token-labs/ms-sim"],
        diff=TEXT_ALONE,
    ),
    "someone else's release comes and goes meanwhile": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim=1, other=1, gone=1))),
            (APPLY, said(rc=2)),
            (INSTALLED, said(installed(ms_sim=2, other=2))),
        ],
        updated=["token-labs/ms-sim"],
    ),
    "check, drift": Case(
        [
            (LIST, said(declared("pool-sim", "ms-sim"))),
            (INSTALLED, said(installed(pool_sim=1, ms_sim=1))),
            (DIFF, said(err="No affected releases\n")),
            ([*DIFF, *THREE_WAY], said(DIFF_TEXT, AFFECTED, rc=2)),
        ],
        updated=["token-labs/ms-sim"],
        diff=TEXT_ALONE,
        check=True,
        drifted="ms-sim",
    ),
    "drift is put right": Case(
        [
            (LIST, said(declared("pool-sim", "ms-sim"))),
            (INSTALLED, said(installed(pool_sim=1, ms_sim=1))),
            (APPLY, said()),
            ([*APPLY, *THREE_WAY], said(DIFF_TEXT, rc=2)),
            (INSTALLED, said(installed(pool_sim=1, ms_sim=2))),
        ],
        updated=["token-labs/ms-sim"],
        diff=TEXT_ALONE,
        drifted="ms-sim",
    ),
    "drift that an upgrade puts right needs no second one": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim=1))),
            (APPLY, said(DIFF_TEXT, rc=2)),
            (INSTALLED, said(installed(ms_sim=2))),
        ],
        updated=["token-labs/ms-sim"],
        diff=TEXT_ALONE,
        drifted="ms-sim",
        until=2,
    ),
    "only the releases of the file are looked at for drift": Case(
        [
            (LIST, said(declared("ms-sim", retired=("ms-old",)))),
            (INSTALLED, said(installed(ms_sim=1, foreign=1))),
            (APPLY, said()),
        ],
        drifted="foreign",
    ),
    "installed: false": Case(
        [
            (LIST, said(declared("ms-sim", retired=("ms-old",)))),
            (INSTALLED, said(installed(ms_sim=1, ms_old=4))),
            (APPLY, said(rc=2)),
            (INSTALLED, said(installed(ms_sim=1))),
        ],
        removed=["token-labs/ms-old"],
    ),
    "left the file, with a label": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim=1, ms_old=4, foreign=1))),
            (LABELLED, said(installed(ms_sim=1, ms_old=4))),
            (APPLY, said()),
            (uninstall("ms-old"), said()),
        ],
        removed=["token-labs/ms-old"],
        label="tokenlabs-managed=llm-d",
    ),
    "the last release left the file": Case(
        [
            (LIST, said(err="err: no releases found that matches specified selector()")),
            (INSTALLED, said(installed(ms_old=4))),
            (LABELLED, said(installed(ms_old=4))),
            (APPLY, said(err="err: no releases found that matches specified selector()")),
            (uninstall("ms-old"), said()),
        ],
        removed=["token-labs/ms-old"],
        label="tokenlabs-managed=llm-d",
    ),
    "left the file, without a label": Case(
        [(LIST, said(declared("ms-sim"))), (INSTALLED, said(installed(ms_sim=1, ms_old=4))), (APPLY, said())]
    ),
    "check, left the file": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim=1, ms_old=4))),
            (LABELLED, said(installed(ms_sim=1, ms_old=4))),
            (DIFF, said(err="No affected releases\n")),
        ],
        removed=["token-labs/ms-old"],
        check=True,
        label="tokenlabs-managed=llm-d",
    ),
    "a failed upgrade without a difference is done again": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim="failed 3"))),
            (APPLY, said()),
            (sync("ms-sim"), said()),
            (INSTALLED, said(installed(ms_sim=4))),
        ],
        updated=["token-labs/ms-sim"],
    ),
    "a failed upgrade with a difference is not done twice": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim="failed 3"))),
            (APPLY, said(rc=2)),
            (INSTALLED, said(installed(ms_sim=4))),
            (INSTALLED, said(installed(ms_sim=4))),
        ],
        updated=["token-labs/ms-sim"],
    ),
    "check, failed upgrade": Case(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim="failed 3"))),
            (DIFF, said(err="No affected releases\n")),
        ],
        updated=["token-labs/ms-sim"],
        check=True,
    ),
    "absent": Case(
        [
            (INSTALLED, said(installed(ms_sim=1, foreign=1))),
            (LIST, said(declared("ms-sim", "ms-never"))),
            (LABELLED, said(installed(ms_sim=1, ms_old=1))),
            (DESTROY, said()),
            (uninstall("ms-old"), said()),
            (INSTALLED, said(installed(foreign=1))),
        ],
        removed=["token-labs/ms-old", "token-labs/ms-sim"],
        label="tokenlabs-managed=llm-d",
        state="absent",
    ),
    "absent already": Case(
        [(LIST, said(declared("ms-sim"))), (INSTALLED, said(installed(foreign=1)))],
        state="absent",
    ),
    "check, absent": Case(
        [(LIST, said(declared("ms-sim"))), (INSTALLED, said(installed(ms_sim=1)))],
        removed=["token-labs/ms-sim"],
        check=True,
        state="absent",
    ),
}


class Script:
    """Answers exactly the commands of the script, each once; a manifest is its release's name."""

    def __init__(self, script: list[tuple[list[str], tuple[int, str, str]]]):
        self.left = list(script)

    def __call__(self, command: list[str]) -> tuple[int, str, str]:
        if command[:3] == ["helm", "get", "manifest"]:
            return said(command[3])
        for position, (expected, answer) in enumerate(self.left):
            if expected == command:
                del self.left[position]
                return answer
        raise AssertionError(f"unexpected command: {command}")


@pytest.mark.parametrize("name", CASES)
def test_reconcile(name: str) -> None:
    case = CASES[name]
    script = Script(case.script)
    tool = hf.Helmfile(script, "helmfile", "helm", "f.yaml")

    def drifted(release: hf.Release, manifest: str) -> bool:
        return manifest == release.name == case.drifted and release.revision < case.until

    if case.state == "present":
        outcome = hf.converge(tool, case.check, case.label, drifted)
    else:
        outcome = hf.remove(tool, case.check, case.label)
    assert script.left == []
    assert (outcome.updated, outcome.removed, outcome.diff) == (case.updated, case.removed, case.diff)
    assert outcome.changed == bool(case.updated or case.removed)


WRITERS = ("apply", "sync", "destroy", "uninstall")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.check])
def test_check_mode_only_reads(name: str) -> None:
    for command, _answer in CASES[name].script:
        assert not set(WRITERS) & set(command)


def test_context_reaches_both_programs() -> None:
    script = Script(
        [
            ([*TOOL, "--kube-context", "x", "list", "--skip-charts", "--output", "json"], said("[]")),
            (["helm", "--kube-context", "x", *INSTALLED[1:]], said("[]")),
        ]
    )
    tool = hf.Helmfile(script, "helmfile", "helm", "f.yaml", "x")
    assert (tool.declared(), tool.installed()) == ({}, {})


def failure(args: str, message: str, prefix: str = "") -> str:
    return f"""\
Listing releases matching ^ms-sim$
{prefix}in ./helmfile.yaml: {args}command "/opt/tokenlabs/bin/helm" exited with non-zero status:

PATH:
  /opt/tokenlabs/bin/helm

ARGS:
  0: helm (4 bytes)
  1: diff (4 bytes)
  2: upgrade (7 bytes)
  3: --allow-unreleased (18 bytes)
  4: ms-sim (6 bytes)
  5: /srv/ms.tgz (59 bytes)

ERROR:
  exit status 1

EXIT STATUS
  1

STDERR:
  {message}
  Error: plugin "diff" exited with error

COMBINED OUTPUT:
  {message}
  Error: plugin "diff" exited with error"""


TABLE = """
========================================== Failed Releases ===========================================
NAME     NAMESPACE    CHART                                                         VERSION   DURATION
ms-sim   token-labs   /charts/llm-d-modelservice-v0.4.11.tgz                                      4s

"""
FAILURES = {
    "plugin": (failure("", 'Error: unknown command "diff" for "helm"'), ["ms-sim"], "helm-diff is not installed"),
    "refused by the API": (
        failure(
            "", 'Error: cannot patch "ms-sim-decode": Deployment.apps is invalid: containerPort: Invalid value: 800000'
        ),
        ["ms-sim"],
        "release ms-sim: cannot patch",
    ),
    "chart source refuses the connection": (
        failure(
            '[release "pool-sim": ',
            'Error: failed to perform "FetchReference" on source: Get "https://127.0.0.1:1/v2/x": connection refused',
        ),
        ["pool-sim", "ms-sim"],
        "tokenlabs_mirrors.charts",
    ),
    "chart file": (
        failure(
            "", 'Error: Failed to render chart: exit status 1: Error: path "/charts/inferencepool-v9.tgz" not found'
        ),
        ["ms-sim"],
        "tokenlabs_mirrors.charts",
    ),
    "API": (
        failure(
            "failed processing release pool-sim: ",
            'Error: Kubernetes cluster unreachable: Get "http://localhost:8080/version": connection refused',
        ),
        ["pool-sim", "ms-sim"],
        "the Kubernetes API does not answer",
    ),
    "release in the table": (
        failure("failed processing release ms-sim: ", "Error: UPGRADE FAILED: context deadline exceeded", TABLE),
        ["ms-sim"],
        "UPGRADE FAILED: context deadline exceeded",
    ),
    "pending": (
        failure("", "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress"),
        ["ms-sim"],
        "another helm is at work",
    ),
    "helmfile's own": (
        'in ./helmfile.yaml: release(s) "token-labs/ms-sim" depend(s) on an undefined release "token-labs/pool-gone"',
        [],
        "undefined release",
    ),
    "silence": ("", [], "without a word"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_names_release_reason_and_remedy(name: str) -> None:
    err, failed, words = FAILURES[name]
    script = Script([(LIST, said(declared("ms-sim"))), (INSTALLED, said("[]")), (APPLY, (1, "", err))])
    with pytest.raises(hf.HelmfileError) as caught:
        hf.converge(hf.Helmfile(script, "helmfile", "helm", "f.yaml"), check=False)
    assert caught.value.failed == failed
    assert words in str(caught.value)
    assert 'plugin "diff" exited' not in str(caught.value)


def test_no_release_matched_is_an_error_not_a_change() -> None:
    script = Script(
        [(LIST, said(declared("ms-sim"))), (INSTALLED, said("[]")), (APPLY, (3, "", "err: no releases found"))]
    )
    with pytest.raises(hf.HelmfileError, match="no releases found"):
        hf.converge(hf.Helmfile(script, "helmfile", "helm", "f.yaml"), check=False)


def test_destroy_that_leaves_something_is_an_error() -> None:
    script = Script(
        [
            (LIST, said(declared("ms-sim"))),
            (INSTALLED, said(installed(ms_sim=1))),
            (DESTROY, said()),
            (INSTALLED, said(installed(ms_sim=1))),
        ]
    )
    with pytest.raises(hf.HelmfileError, match="still installed"):
        hf.remove(hf.Helmfile(script, "helmfile", "helm", "f.yaml"), check=False)


def test_garbage_instead_of_json_is_an_error() -> None:
    with pytest.raises(hf.HelmfileError, match="other than JSON"):
        hf.parse_installed("WARNING: config is group-readable")


def test_colours_do_not_matter() -> None:
    assert hf.affected_names("\x1b[33mAffected releases are:\n\x1b[0m  a (oci://x/y) UPDATED\n") == {"a"}


def test_events_of_the_failed_release_only_oldest_first() -> None:
    def event(name: str, when: str, message: str, kind: str = "Warning") -> dict[str, object]:
        return {
            "type": kind,
            "reason": "FailedScheduling",
            "message": message,
            "lastTimestamp": when,
            "involvedObject": {"kind": "Pod", "name": name},
        }

    events = [
        event("ms-sim-decode-2", "2026-01-02T00:00:00Z", "Insufficient nvidia.com/gpu"),
        event("ms-sim-decode-1", "2026-01-01T00:00:00Z", "node(s) had untolerated taint"),
        event("ms-sim-decode-1", "2026-01-03T00:00:00Z", "Pulled", "Normal"),
        event("pool-sim-epp-1", "2026-01-02T00:00:00Z", "not ours"),
    ]
    assert hf.warnings_of(events, ["token-labs/ms-sim"]) == [
        "ms-sim-decode-1: FailedScheduling: node(s) had untolerated taint",
        "ms-sim-decode-2: FailedScheduling: Insufficient nvidia.com/gpu",
    ]


def test_files_and_summary() -> None:
    texts = hf.files({"releases": []}, {"ms-a": {"x": 1}}, json.dumps)
    assert sorted(texts) == ["helmfile.yaml", "values/ms-a.yaml"]
    assert texts["values/ms-a.yaml"].endswith('{"x": 1}')
    assert hf.summary(hf.Outcome(["ns/a"], ["ns/b"], "text")) == "+ release ns/a\n- release ns/b\ntext\n"


@pytest.mark.parametrize(
    ("wanted", "live", "same"),
    [
        ({"spec": {"replicas": 1}}, {"spec": {"replicas": 1, "added": "by the server"}, "status": {}}, True),
        ({"spec": {"replicas": 1}}, {"spec": {"replicas": 3}}, False),
        ({"spec": {"replicas": 0}}, {"spec": {"replicas": 3}}, False),
        ({"spec": {"replicas": 1}}, {}, False),
        ({"a": {"b": 1}}, {"a": "text"}, False),
        ({"labels": {"a": "b"}}, {"labels": {}}, False),
        ({"metadata": {"creationTimestamp": None}}, {"metadata": {"creationTimestamp": "now"}}, True),
        ({"env": [], "annotations": {}, "value": "", "hostNetwork": False, "delay": 0}, {}, True),
        ({"hostNetwork": False}, {"hostNetwork": True}, False),
        ({"env": []}, {"env": [{"name": "X"}]}, False),
        ({"args": ["a", "b"]}, {"args": ["a", "b"]}, True),
        ({"args": ["a", "b"]}, {"args": ["b", "a"]}, False),
        ({"args": ["a"]}, {"args": ["a", "b"]}, False),
        ({"args": ["a"]}, {"args": "a"}, False),
        ({"ports": [{"port": 80}]}, {"ports": [{"port": 80, "protocol": "TCP"}]}, True),
        ({"cpu": "1000m"}, {"cpu": "1"}, True),
        ({"cpu": 1}, {"cpu": "1"}, True),
        ({"cpu": "0.5"}, {"cpu": "500m"}, True),
        ({"memory": "1024Mi"}, {"memory": "1Gi"}, True),
        ({"memory": "1024Ki"}, {"memory": "1Mi"}, True),
        ({"memory": "1Gi"}, {"memory": "1G"}, False),
        ({"image": "a:v1"}, {"image": "a:v2"}, False),
        # A variable that somebody else has added is no drift; one that is gone, or is another, is.
        (
            {"env": [{"name": "A", "value": "1"}]},
            {"env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]},
            True,
        ),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B", "value": "2"}]}, False),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "A", "value": "2"}]}, False),
        ({"x": [{"name": "A"}, {"name": "A"}]}, {"x": [{"name": "A"}]}, False),
    ],
)
def test_whether_an_object_is_as_helm_made_it(wanted: object, live: object, same: bool) -> None:
    assert drift.as_made(wanted, live) is same


def test_the_text_of_a_secret_is_data_on_the_server() -> None:
    body = {"kind": "Secret", "data": {"a": "eA=="}, "stringData": {"b": "x"}}
    assert drift.stored(body) == {"kind": "Secret", "data": {"a": "eA==", "b": "eA=="}}
    assert drift.stored({"kind": "ConfigMap", "stringData": {"b": "x"}}) == {
        "kind": "ConfigMap",
        "stringData": {"b": "x"},
    }


def test_what_an_autoscaler_has_set_is_no_drift() -> None:
    made = {"kind": "Deployment", "spec": {"replicas": 1, "paused": False}}
    fields = [{"manager": "kube-controller-manager", "subresource": "scale", "operation": "Update"}]
    live = {"kind": "Deployment", "metadata": {"managedFields": fields}, "spec": {"replicas": 3, "paused": False}}
    assert drift.as_made(drift.without_scale(made, live), live)
    by_hand = {**live, "metadata": {"managedFields": [{**fields[0], "manager": "kubectl"}]}}
    assert not drift.as_made(drift.without_scale(made, by_hand), by_hand)
