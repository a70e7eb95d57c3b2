# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of models that start, and when one is given up."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import UNREACHABLE, KubeError, Resource
from ansible_collections.tokenlabs.platform.plugins.module_utils._model_wait import (
    Looker,
    Model,
    Patience,
    State,
    as_data,
    doing_of,
    duration,
    from_data,
    judge,
)

Body = dict[str, Any]
QWEN = Model("qwen", "pool-qwen", "pool-qwen-epp", "ms-qwen-decode", "qwen")
POD = "ms-qwen-decode-1"


def pod(container: Body | None = None, node: str = "spark-01", ready: bool = False, **metadata: Any) -> Body:
    conditions = [{"type": "Ready", "status": str(ready)}]
    status = {"conditions": conditions, "containerStatuses": [container] if container else []}
    return {"metadata": {"name": POD, **metadata}, "spec": {"nodeName": node} if node else {}, "status": status}


def event(reason: str, kind: str = "Normal", message: str = "", at: str = "1", name: str = POD) -> Body:
    about = {"kind": "Pod", "name": name}
    return {
        "metadata": {"name": f"{reason}.{at}"},
        "involvedObject": about,
        "reason": reason,
        "type": kind,
        "message": message,
        "lastTimestamp": at,
    }


def waiting(reason: str, message: str = "", **more: Any) -> Body:
    return {"name": "vllm", "state": {"waiting": {"reason": reason, "message": message}}, **more}


RUNNING: Body = {"name": "vllm", "state": {"running": {"startedAt": "t"}}, "restartCount": 0}
CRASHED: Body = {"restartCount": 3, "lastState": {"terminated": {"exitCode": 137}}}


@pytest.mark.parametrize(
    ("seen", "events", "told"),
    [
        (pod(node=""), [], "it waits for a place"),
        (pod(), [], "its container is made on spark-01"),
        (pod(waiting("ContainerCreating")), [event("Pulling")], "its image is downloaded on spark-01"),
        (pod(), [event("Pulling", at="1"), event("Pulled", at="2")], "its container is made on spark-01"),
        (pod(), [event("FailedMount", "Warning", "no\n disk")], "FailedMount on spark-01: no disk"),
        (pod(), [event("FailedMount", "Warning", name="another")], "its container is made on spark-01"),
        (pod(waiting("ImagePullBackOff", "not found")), [], "its image cannot be pulled on spark-01: not found"),
        (pod(waiting("ErrImagePull")), [], "its image cannot be pulled on spark-01: ErrImagePull"),
        (
            pod(waiting("CrashLoopBackOff", **CRASHED)),
            [],
            "its server ended 3 times on spark-01, last with exit code 137",
        ),
        (
            pod(waiting("CreateContainerConfigError", 'secret "hf-token" not found')),
            [],
            'pod ms-qwen-decode-1, container vllm: CreateContainerConfigError: secret "hf-token" not found',
        ),
        (pod(RUNNING), [], "its server starts on spark-01"),
        (
            pod({**RUNNING, **CRASHED}),
            [],
            "its server starts on spark-01, after 3 restarts, the last for exit code 137",
        ),
        (pod(RUNNING, deletionTimestamp="t"), [], "an earlier worker is stopped on spark-01"),
    ],
)
def test_what_a_pod_does(seen: Body, events: list[Body], told: str) -> None:
    assert doing_of(seen, events) == told


def test_a_pod_without_a_place_says_why() -> None:
    seen = pod(node="")
    seen["status"]["conditions"].append({"type": "PodScheduled", "status": "False", "message": "0/3 nodes"})
    assert doing_of(seen, []) == "pod ms-qwen-decode-1 is not scheduled: 0/3 nodes"


def test_what_a_model_does() -> None:
    gone = {"ms-qwen-decode": ["it does not exist"]}
    assert judge(QWEN, gone, [], [], "n") == State(False, "it does not exist")
    some = {"ms-qwen-decode": ["1 of 2 replicas are available"]}
    pods = [pod(RUNNING, ready=True), pod(waiting("ErrImagePull", "x"), creationTimestamp="2")]
    found = judge(QWEN, some, pods, [event("Failed", "Warning", "x")], "n")
    assert found.doing == "its image cannot be pulled on spark-01: x; 1 of 2 workers are ready"
    assert found.running and found.events == ("event Failed: x",)
    picker = judge(QWEN, {"pool-qwen-epp": ["0 of 1 replicas are available"]}, [pod(RUNNING, ready=True)], [], "n")
    assert picker.doing == "the server is ready, its endpoint picker is not: 0 of 1 replicas are available"
    pool = judge(QWEN, {"pool-qwen": ["not accepted"]}, [pod(RUNNING, ready=True)], [], "n")
    assert pool.doing == "the server is ready, its pool is not: not accepted"


def test_durations() -> None:
    assert [duration(each) for each in (0.9, 59, 65, 3600, 5400)] == ["0s", "59s", "1m 05s", "1h 00m", "1h 30m"]


# --- patience --------------------------------------------------------------------------------------------------------

LOADING = State(False, "its server starts", True)
PULLING = State(False, "its image is downloaded")
STUCK = State(False, "its image cannot be pulled", events=("event Failed: not found",))
READY = State(True, "ready", True)


def test_changes_are_told_and_a_word_a_minute() -> None:
    patience = Patience({"a": 1800, "b": 1800}, 600, 0)
    assert patience.see({"a": PULLING, "b": READY}, 2) == [
        "a: its image is downloaded (2s, until 10m 00s at most)",
        "b: ready after 2s",
    ]
    assert patience.pending == ["a"] and patience.seen == {"a": "its image is downloaded"}
    assert patience.left(2) == 60
    assert patience.see({"a": PULLING}, 61) == []
    assert patience.see({"a": PULLING}, 62) == ["a: its image is downloaded (1m 02s, until 10m 00s at most)"]
    # Its own time begins when its server runs.
    assert patience.see({"a": LOADING}, 100) == ["a: its server starts (1m 40s, until 31m 40s at most)"]
    assert patience.see({"a": READY}, 200) == ["a: ready after 3m 20s"]
    assert (patience.ready, patience.failed, patience.pending) == (["b", "a"], {}, [])


def test_one_that_does_not_start_is_given_up_alone() -> None:
    patience = Patience({"a": 60, "b": 1800}, 100, 0)
    patience.see({"a": STUCK, "b": LOADING}, 50)
    assert patience.left(50) == 50
    assert patience.see({"a": STUCK, "b": LOADING}, 100) == ["a: given up after 1m 40s: its image cannot be pulled"]
    assert patience.failed == {"a": "its image cannot be pulled (after 1m 40s); event Failed: not found"}
    assert patience.pending == ["b"]
    # A server that falls back to waiting keeps the time of its start.
    patience.see({"b": State(False, "its server ended 1 times")}, 200)
    assert patience.see({"b": READY}, 1849) == ["b: ready after 30m 49s"]


def test_a_start_of_its_own_may_take_longer_than_the_download() -> None:
    patience = Patience({"a": 60}, 10, 0)
    patience.see({"a": LOADING}, 9)
    assert patience.see({"a": LOADING}, 68) == []
    assert patience.see({"a": LOADING}, 69) == ["a: given up after 1m 09s: its server starts"]


# --- the cluster -----------------------------------------------------------------------------------------------------


class FakeKube:
    """Objects by name, and a list of what to answer first."""

    workers = 1

    def __init__(self, objects: dict[str, Body], errors: list[KubeError] | None = None):
        self.objects, self.errors, self.pods = objects, errors or [], []

    def resource(self, api_version: str, kind: str) -> Resource:
        return Resource(api_version, kind, f"{kind.lower()}s", True)

    def get(self, path: str) -> Body | None:
        if self.errors:
            raise self.errors.pop(0)
        return self.objects.get(path.rpartition("/")[2])

    def list(self, path: str, label_selector: str | None = None) -> list[Body]:
        return self.pods if path.endswith("/pods") and label_selector == "llm-d.ai/model=qwen" else []


DONE = {"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}}
DONE["status"]["availableReplicas"] = 1
POOL = {
    "metadata": {"generation": 1},
    "status": {
        "parents": [
            {"conditions": [{"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "True"}]}
        ]
    },
}


def test_looking_ends_with_news() -> None:
    kube = FakeKube({"pool-qwen-epp": DONE, "pool-qwen": POOL})
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] >= 4:
            kube.objects["ms-qwen-decode"] = DONE

    looker = Looker(kube, "n", lambda: now[0], sleep)  # type: ignore[arg-type]
    first = looker.watch([QWEN], {}, 30)
    assert (first["qwen"].doing, now[0]) == ("it does not exist", 0)
    second = looker.watch([QWEN], {"qwen": "it does not exist"}, 30)
    assert second["qwen"].ready and now[0] == 4
    assert from_data(as_data(second)) == second
    assert looker.watch([QWEN], {"qwen": "ready"}, 0)["qwen"].ready


def test_an_api_that_is_away_is_waited_through_and_a_refusal_is_not() -> None:
    away = KubeError(UNREACHABLE, "", "no route")
    looker = Looker(FakeKube({}, [away]), "n")  # type: ignore[arg-type]
    assert looker.watch([QWEN], {}, 0)["qwen"].doing.startswith("the API does not answer")
    with pytest.raises(KubeError):
        Looker(FakeKube({}, [KubeError(403, "Forbidden", "no")]), "n").watch([QWEN], {}, 0)  # type: ignore[arg-type]
