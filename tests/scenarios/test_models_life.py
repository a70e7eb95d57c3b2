# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of models: from nothing, a Spark more, from one Spark to another, gone. Each test goes on from the last."""

from __future__ import annotations

import time

import pytest
import yaml

from tests.scenarios.evidence import mutating_commands, writes
from tests.scenarios.models import Site, answers, deployments, is_unknown, listed, places

pytestmark = pytest.mark.long
CHAT, SEES = "nvidia/Llama-3.1-Nemotron-Nano-8B-v1", "nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-FP8"
THIRD = {
    "name": "qwen-7b",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "engine": "sglang",
    "image": "lmsysorg/sglang:v0.5.0",
    "memory_fraction": 0.8,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.copied(tmp_path_factory.mktemp("models"))


def test_models_from_nothing_and_again(site: Site) -> None:
    for name in ("preflight", "cluster", "gateway"):
        done = site.play(name)
        assert done.code == 0, done.text
    first = site.play("inference")
    assert first.code == 0, first.text
    assert site.play("tenants").code == 0
    for model in (CHAT, SEES):
        answers(model)
    assert listed() == [CHAT, SEES]
    begun = time.time()
    second = site.play("inference")
    assert (second.code, second.changed) == (0, 0), second.text
    assert (mutating_commands(begun), writes(begun)) == ([], [])


def test_a_third_spark_serves_after_one_file_and_one_run(site: Site) -> None:
    hosts = site.inventory / "hosts.yml"
    written = yaml.safe_load(hosts.read_text())
    written["sparks"]["hosts"].update(written.pop("spares")["hosts"])
    hosts.write_text(yaml.safe_dump(written))
    site.serve("spark-03", THIRD)
    done = site.play("site")
    assert done.code == 0, done.text
    answers(THIRD["model"])
    assert places("qwen-7b") == ["spark-03"]
    assert listed() == sorted([CHAT, SEES, THIRD["model"]])


def test_models_change_places(site: Site) -> None:
    second, third = site.models("spark-02"), site.models("spark-03")
    site.serve("spark-02", *third)
    site.serve("spark-03", *second)
    done = site.play("inference")
    assert done.code == 0, done.text
    assert (places("qwen-7b"), places("nemotron-vl-12b")) == (["spark-02"], ["spark-03"])
    for model in (CHAT, SEES, THIRD["model"]):
        answers(model)


def test_a_model_on_a_second_spark_is_a_second_worker(site: Site) -> None:
    site.serve("spark-02", *site.models("spark-03"))
    done = site.play("inference")
    assert done.code == 0, done.text
    assert places("nemotron-vl-12b") == ["spark-02", "spark-03"]
    answers(SEES)
    is_unknown(THIRD["model"])
    assert not {"ms-qwen-7b-decode", "pool-qwen-7b-epp"} & deployments()


def test_after_all_that_nothing_is_left_to_do(site: Site) -> None:
    again = site.play("inference")
    assert (again.code, again.changed) == (0, 0), again.text
    assert site.play("verify").code == 0
