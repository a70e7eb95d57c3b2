# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech in both directions, and images that are built: what the catalog makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.plugin_utils._context import DIGITS, digest

from tests.unit.plugins.catalog.inventories import GOOD, load, write

MAIN, SPARK = "group_vars/all/main.yml", "host_vars/spark-02.yml"
BUILD = "tokenlabs_image_builds:\n  own: {context: images/own%s}\n"


def catalog(directory: Path, changes: dict[str, str | None]) -> dict[str, Any]:
    answer = load(write(directory, changes))
    assert not answer.get("failed"), answer.get("msg")
    return answer["catalog"]


def test_without_them_nothing_is_open(tmp_path: Path) -> None:
    found = catalog(tmp_path, {})
    assert (found["services"], found["speech"], found["transcriptions"], found["builds"], found["registry"]) == (
        {},
        None,
        None,
        {},
        None,
    )


def test_speech_opens_its_own_paths(tmp_path: Path) -> None:
    text = "tokenlabs_magpie_tts: {host: spark-01, image: 'r/tts:v1', access: [pro], cache_size: 4Gi}\n"
    taint = "tokenlabs_node_taints: [{key: a, effect: NoSchedule}]\n"
    spark = {"host_vars/spark-01.yml": GOOD["host_vars/spark-01.yml"] + taint}
    found = catalog(tmp_path, {MAIN: GOOD[MAIN] + text, **spark})
    assert found["services"] == dict.fromkeys(("/v1/audio/speech", "/v1/audio/models", "/v1/audio/health"), ["pro"])
    speech = found["speech"]
    assert (speech["host"], speech["image"], speech["pull_secret"]) == ("spark-01", "r/tts:v1", None)
    assert speech["tolerations"] == [{"key": "a", "effect": "NoSchedule", "operator": "Exists"}]
    assert found["nodes"]["spark-01"]["cache_gib"] == 4
    # It takes no GPU from the model beside it.
    assert found["nodes"]["spark-01"]["gpu_slots_used"] == 1


def test_transcriptions_go_where_they_are_sent(tmp_path: Path) -> None:
    nim = "tokenlabs_riva_stt: {host: 192.168.1.7, port: 9000, protocol: http, timeout_seconds: 5}\n"
    found = catalog(tmp_path, {MAIN: GOOD[MAIN] + nim})
    assert found["services"] == {"/v1/audio/transcriptions": None}
    assert found["transcriptions"] == {
        "host": "192.168.1.7",
        "port": 9000,
        "path": "/v1/audio/transcriptions",
        "tls": False,
        "timeout_seconds": 5,
        "credential": False,
        "access": None,
    }
    nvidia = (
        "tokenlabs_riva_stt: {host: integrate.api.nvidia.com, path: /v1/asr}\n"
        "tokenlabs_nvidia_api_key: nvapi-aB3dE5gH7jK9mN1pQ2\n"
    )
    found = catalog(tmp_path, {MAIN: GOOD[MAIN] + nvidia})
    sent = found["transcriptions"]
    assert (sent["port"], sent["path"], sent["tls"], sent["credential"]) == (443, "/v1/asr", True, True)
    assert "nvapi-" not in str(found)


def test_images_are_built_where_they_run(tmp_path: Path) -> None:
    text = GOOD[MAIN] + BUILD % ""
    own = "    build: own\n"
    models = {
        name: GOOD[name].replace("    image: ghcr.io/llm-d/llm-d-cuda:v0.5.0\n", own)
        for name in ("host_vars/spark-01.yml", SPARK)
    }
    folder = tmp_path / "images/own"
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM x\n")
    found = catalog(tmp_path, {MAIN: text, **models})
    build = found["builds"]["own"]
    name, _separator, tag = build["image"].partition(":")
    assert (name, len(tag), build["push"], build["hosts"]) == (
        "tokenlabs.local/own",
        DIGITS,
        False,
        ["spark-01", "spark-02"],
    )
    assert {model["image"] for model in found["models"]} == {build["image"]}
    assert build["context"] == str(folder.resolve())
    # With a registry one node builds for all; another content is another image.
    (folder / "Dockerfile").write_text("FROM y\n")
    pushed = catalog(tmp_path, {MAIN: GOOD[MAIN] + BUILD % ", registry: ghcr.io/me", **models})["builds"]["own"]
    assert pushed["image"].startswith("ghcr.io/me/own:") and not pushed["image"].endswith(tag)
    assert (pushed["push"], pushed["hosts"]) == (True, ["spark-01"])


def test_a_registrys_login_is_used_for_its_own_images(tmp_path: Path) -> None:
    text = "tokenlabs_registry: {server: ghcr.io, username: me}\ntokenlabs_registry_password: aB3dE5gH7jK9mN1p\n"
    other = {SPARK: GOOD[SPARK].replace("ghcr.io", "quay.io")}
    found = catalog(tmp_path, {MAIN: GOOD[MAIN] + text, **other})
    assert found["registry"] == {"secret": "registry", "server": "ghcr.io", "username": "me"}
    values = found["helmfile"]["values"]
    assert values["ms-llama-8b"]["decode"]["extraConfig"]["imagePullSecrets"] == [{"name": "registry"}]
    assert "imagePullSecrets" not in values["ms-qwen-7b"]["decode"]["extraConfig"]
    assert "aB3dE5" not in str(found)


def test_the_digits_of_a_folder_change_with_all_that_counts(tmp_path: Path) -> None:
    def made() -> str:
        return digest(tmp_path, {"args": {}})

    (tmp_path / "a").write_text("1")
    first = made()
    assert made() == first and digest(tmp_path, {"args": {"V": "1"}}) != first
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text("x")
    assert made() == first
    (tmp_path / "a").chmod(0o755)
    executable = made()
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = made()
    (tmp_path / "b").write_text("2")
    rewritten = made()
    (tmp_path / "link").symlink_to("b")
    assert len({first, executable, renamed, rewritten, made()}) == 5
