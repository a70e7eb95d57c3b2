# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as ready, kind by kind, and what is said about what is not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, Resource, UnknownKind
from ansible_collections.tokenlabs.platform.plugins.module_utils._wait import (
    MISSING,
    NeverReady,
    Target,
    Waiter,
    complaints,
    last_events,
    pod_trouble,
    value_at,
)

Body = dict[str, Any]


def live(status: Body | None = None, spec: Body | None = None, generation: int = 2) -> Body:
    return {"metadata": {"name": "x", "generation": generation}, "spec": spec or {}, "status": status}


def condition(name: str, status: str = "True", **rest: Any) -> Body:
    return {"type": name, "status": status, **rest}


def said(kind: str, body: Body | None, **target: Any) -> str:
    return "; ".join(complaints(Target("v1", kind, "x", "n", **target), body))


ROLLED_OUT = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("Anything", None, "it does not exist"),
        ("Anything", {"metadata": {"deletionTimestamp": "now"}}, "it is being deleted"),
        ("Anything", live(), ""),
        ("Deployment", live(ROLLED_OUT, {"replicas": 2}), ""),
        ("Deployment", live(None), "its controller has not seen it yet"),
        ("Deployment", live({**ROLLED_OUT, "observedGeneration": 1}), "its controller has not seen it yet"),
        (
            "Deployment",
            live({**ROLLED_OUT, "updatedReplicas": 1}, {"replicas": 2}),
            "1 of 2 replicas are of the newest version",
        ),
        (
            "Deployment",
            live({**ROLLED_OUT, "replicas": 3}, {"replicas": 2}),
            "1 replicas of an older version are still there",
        ),
        ("Deployment", live({**ROLLED_OUT, "availableReplicas": 0}, {"replicas": 2}), "0 of 2 replicas are available"),
        ("Deployment", live({"observedGeneration": 2}, {"replicas": 0}), "it is scaled to 0 replicas"),
        ("StatefulSet", live({"observedGeneration": 2}, {"replicas": 0}), "it is scaled to 0 replicas"),
        (
            "Deployment",
            live(
                {
                    "observedGeneration": 2,
                    "conditions": [
                        condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="late"),
                        condition("ReplicaFailure", message="quota"),
                    ],
                },
                {"replicas": 1},
            ),
            "no progress: late; no pods: quota; 0 of 1 replicas are of the newest version; "
            "0 of 1 replicas are available",
        ),
        ("StatefulSet", live(None), "its controller has not seen it yet"),
        ("StatefulSet", live({"observedGeneration": 2, "readyReplicas": 1}), ""),
        ("StatefulSet", live({"observedGeneration": 2}), "0 of 1 replicas are ready"),
        (
            "StatefulSet",
            live({"observedGeneration": 2, "readyReplicas": 1, "updateRevision": "b", "currentRevision": "a"}),
            "0 of 1 replicas are of the newest version",
        ),
        ("DaemonSet", live(None), "its controller has not seen it yet"),
        ("DaemonSet", live({"observedGeneration": 2}), ""),
        (
            "DaemonSet",
            live(
                {
                    "observedGeneration": 2,
                    "desiredNumberScheduled": 3,
                    "updatedNumberScheduled": 3,
                    "numberAvailable": 1,
                }
            ),
            "1 of 3 pods are available",
        ),
        (
            "DaemonSet",
            live({"observedGeneration": 2, "desiredNumberScheduled": 1, "numberAvailable": 1}),
            "0 of 1 pods are of the newest version",
        ),
        ("Job", live({"conditions": [condition("Complete")]}), ""),
        ("Job", live({"active": 1}), "1 pods are still at work"),
        ("Namespace", live({"phase": "Active"}), ""),
        ("Namespace", live({"phase": "Terminating"}), "its phase is Terminating, must be Active"),
        ("PersistentVolumeClaim", live({"phase": "Pending"}), "its phase is Pending, must be Bound"),
        ("Service", live(None, {"type": "ClusterIP"}), ""),
        ("Service", live({"loadBalancer": {}}, {"type": "LoadBalancer"}), "no load balancer has given it an address"),
        ("Service", live({"loadBalancer": {"ingress": [{"ip": "1"}]}}, {"type": "LoadBalancer"}), ""),
        ("Node", live({"conditions": [condition("Ready")]}), ""),
        ("Node", live({"conditions": None}), "condition Ready is not reported (there is: none)"),
        (
            "Node",
            live({"conditions": [condition("Ready", "Unknown", reason="NodeStatusUnknown", message="no word")]}),
            "condition Ready is Unknown (NodeStatusUnknown: no word)",
        ),
        (
            "Gateway",
            live({"conditions": [condition("Accepted"), condition("Programmed", observedGeneration=1)]}),
            "condition Programmed is about an earlier version of the object",
        ),
        (
            "AuthPolicy",
            live({"observedGeneration": 1, "conditions": [condition("Accepted"), condition("Enforced")]}),
            "condition Accepted is about an earlier version of the object; "
            "condition Enforced is about an earlier version of the object",
        ),
        (
            "HTTPRoute",
            live({"parents": []}),
            "condition Accepted is not reported (there is: none); "
            "condition ResolvedRefs is not reported (there is: none)",
        ),
        (
            "HTTPRoute",
            live(
                {
                    "parents": [
                        {"parentRef": {"name": "a"}, "conditions": [condition("Accepted"), condition("ResolvedRefs")]},
                        {
                            "parentRef": {"name": "b", "sectionName": "s"},
                            "conditions": [condition("Accepted", "False"), condition("ResolvedRefs")],
                        },
                    ]
                }
            ),
            "condition Accepted for b/s is False",
        ),
        (
            "BackendTrafficPolicy",
            live({"ancestors": [{"ancestorRef": {"name": "g"}, "conditions": [condition("Accepted")]}]}),
            "",
        ),
        (
            "RateLimitPolicy",
            live({"conditions": [condition("Accepted")]}),
            "condition Enforced is not reported (there is: Accepted=True)",
        ),
    ],
)
def test_usual_readiness(kind: str, body: Body | None, expected: str) -> None:
    assert said(kind, body) == expected


def test_a_failed_job_is_not_waited_for() -> None:
    with pytest.raises(NeverReady, match="BackoffLimitExceeded: too often"):
        said("Job", live({"conditions": [condition("Failed", reason="BackoffLimitExceeded", message="too often")]}))


def test_named_conditions_and_fields_replace_the_usual() -> None:
    body = live({"state": "ready", "conditions": [condition("A"), condition("B", "False")], "n": 1, "empty": ""})
    assert said("Deployment", body, conditions=("A", "B=False")) == ""
    assert said("Deployment", body, conditions=("B",)) == "condition B is False"
    assert said("X", body, fields=(("status.state", "ready"), ("status.n", "1"))) == ""
    assert said("X", body, fields=(("status.state", "done"),)) == "status.state is 'ready', must be 'done'"
    assert said("X", body, fields=(("status.no", "x"),)) == "status.no is not set, must be 'x'"
    assert said("X", body, fields=(("status.state", None),)) == ""
    assert (
        said("X", body, fields=(("status.empty", None), ("status.no", None)))
        == "status.empty is not set; status.no is not set"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", 1),
        ("l[1].c", 2),
        ('a["x.y/z"]', 3),
        ('a["x.y/z"].deeper', MISSING),
        ("l[7]", MISSING),
        ("no.where", MISSING),
    ],
)
def test_paths(path: str, value: Any) -> None:
    assert value_at({"a": {"b": 1, "x.y/z": 3}, "l": [{}, {"c": 2}]}, path) == value


def test_events_newest_first_and_said_once() -> None:
    def event(kind: str, name: str, reason: str, when: str) -> Body:
        of = {"kind": kind, "name": name}
        return {"metadata": {}, "involvedObject": of, "reason": reason, "message": "a\n b", "lastTimestamp": when}

    events = [
        event("Deployment", "x", "Old", "1"),
        event("Pod", "x-1", "Pull", "3"),
        event("Pod", "x-2", "Pull", "4"),
        event("Pod", "y-1", "Other", "5"),
        event("Service", "x", "Other", "6"),
        event("ReplicaSet", "x-1", "Create", "2"),
        event("ReplicaSet", "x-1", "Even older", "0"),
    ]
    told = last_events(events, Target("apps/v1", "Deployment", "x", "n"))
    assert told == ["event Pull: a b", "event Create: a b", "event Old: a b"]


def test_why_a_pod_does_not_run() -> None:
    def pod(**status: Any) -> Body:
        return {"metadata": {"name": "p"}, "status": status}

    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    assert pod_trouble(pod()) == []
    assert pod_trouble(pod(containerStatuses=[{"state": {"waiting": {"reason": "ContainerCreating"}}}])) == []
    assert pod_trouble(pod(initContainerStatuses=[{"name": "c", "state": {"waiting": waiting}}])) == [
        "pod p, container c: ImagePullBackOff: no such image"
    ]
    assert pod_trouble(pod(conditions=[condition("PodScheduled", "False", message="0/3 nodes")])) == [
        "pod p is not scheduled: 0/3 nodes"
    ]


class World:
    """A cluster whose objects change as time goes by, and its clock."""

    workers = 1

    def __init__(self, story: dict[float, Any]):
        self.now = 0.0
        self.story = story
        self.gets = 0

    def resource(self, api_version: str, kind: str) -> Resource:
        if kind == "Late" and self.now < 3:
            raise UnknownKind(api_version, kind)
        return Resource(api_version, kind, kind.lower(), True)

    def get(self, path: str) -> Body | None:
        self.gets += 1
        newest = [answer for when, answer in sorted(self.story.items()) if when <= self.now][-1]
        answer = newest(path) if callable(newest) else newest
        if isinstance(answer, KubeError):
            raise answer
        return answer

    def list(self, path: str, field_selector: str | None = None) -> list[Body]:
        if path.endswith("/events"):
            of = {"kind": "Node", "name": "x"}
            return [{"metadata": {}, "involvedObject": of, "reason": "Rebooted", "message": "again"}]
        raise KubeError(403, "Forbidden", "no")

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def waiter(world: World) -> Waiter:
    return Waiter(world, clock=lambda: world.now, sleep=world.sleep)  # type: ignore[arg-type]


READY = live({"conditions": [condition("Ready")]})
NODE = Target("v1", "Node", "x", "n")


def test_waits_through_absence_and_outage() -> None:
    outage = KubeError(503, "Unavailable", "restarting")
    world = World({0: None, 2: outage, 4: KubeError(0, "Unreachable", "refused"), 6: READY})
    verdict = waiter(world).wait([NODE], 60)
    assert (verdict.ready, verdict.pending, verdict.waited) == (["Node/n/x"], {}, 6.0)


def test_only_the_pending_are_looked_at_again() -> None:
    world = World({0: lambda path: READY if path.endswith("/a") else None, 5: READY})
    verdict = waiter(world).wait([Target("v1", "Node", "a", "n"), Target("v1", "Node", "b", "n")], 60)
    assert verdict.ready == ["Node/n/a", "Node/n/b"]
    assert world.gets == 1 + 6


def test_a_kind_that_comes_late() -> None:
    world = World({0: READY})
    assert waiter(world).wait([Target("v1", "Late", "x", "n")], 60).waited == 3.0


def test_time_out_tells_what_and_why() -> None:
    world = World({0: live({"conditions": [condition("Ready", "False", reason="Down", message="dead")]})})
    verdict = waiter(world).wait([NODE], 10)
    assert verdict.waited == 10.0
    assert verdict.message(10) == (
        "1 of 1 objects not ready after 10 s:\n"
        "- Node/n/x: condition Ready is False (Down: dead); event Rebooted: again\n"
        "The whole story of the first: kubectl -n n describe node/x. Then run this again."
    )


def test_refusals_and_lost_causes_end_the_waiting_at_once() -> None:
    with pytest.raises(KubeError, match="Node/n/x: 403 Forbidden: no"):
        waiter(World({0: KubeError(403, "Forbidden", "no")})).wait([NODE], 60)
    failed = live({"conditions": [condition("Failed", reason="R", message="M")]})
    verdict = waiter(World({0: failed})).wait([Target("batch/v1", "Job", "x", "n")], 60)
    assert verdict.waited == 0 and "it has failed (R: M)" in verdict.pending["Job/n/x"]


def test_without_time_it_looks_once_and_asks_for_nothing_more() -> None:
    world = World({0: None})
    verdict = waiter(world).wait([NODE, Target("v1", "Node", "x", "n")], 0)
    assert verdict.pending == {"Node/n/x": "it does not exist; it does not exist"}
    assert world.gets == 2
