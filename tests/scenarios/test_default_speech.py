# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech on a finished platform, in both directions: it comes, is asked for, and goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.scenarios.conftest import REPO, kubectl
from tests.scenarios.models import KEYS, SOON, Site, address

# The lab's side of the network: no pod and no host, as a server in the next room.
NIM, PORT = "10.77.255.254", 9070
OWN_PATH = "/v1/audio/transcriptions"
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
    b'--x\r\nContent-Disposition: form-data; name="language"\r\n\r\nen-US\r\n--x--\r\n'
)


@pytest.fixture
def nim() -> Iterator[str]:
    """A speech-to-text server outside the cluster; the value is its address."""
    argv = [sys.executable, "-m", "lab.gateway.speechserver", "--listen", f"{NIM}:{PORT}"]
    server = subprocess.Popen(argv, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)})
    try:
        yield f"http://{NIM}:{PORT}"
    finally:
        server.terminate()
        server.wait(10)


def ask(path: str, body: bytes, kind: str, tenant: str = "demo-free") -> tuple[int, bytes]:
    key = (KEYS / f"{tenant}.key").read_text()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
    request = urllib.request.Request(f"http://{address()}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def speak(voice: str = "sofia") -> tuple[int, bytes]:
    return ask("/v1/audio/speech", json.dumps({"input": "Hello.", "voice": voice}).encode(), "application/json")


def hear(tenant: str = "demo-pro") -> tuple[int, bytes]:
    return ask(OWN_PATH, FORM, "multipart/form-data; boundary=x", tenant)


def refused(path: str) -> None:
    """The path is closed again, or will be in a moment."""
    end = time.monotonic() + SOON
    while (status := ask(path, b"{}", "application/json")[0]) not in (403, 404):
        assert time.monotonic() < end, status
        time.sleep(0.5)


# Eight playbooks; tests/lab/test_gateway_speech.py asks the same of the roles' objects in seconds.
@pytest.mark.long
def test_speech_comes_and_goes(nim: str, tmp_path: Path) -> None:
    site = Site.copied(tmp_path)
    file = site.inventory / "group_vars/all/main.yml"
    before = file.read_text()
    wanted = {
        "tokenlabs_magpie_tts": {"host": "spark-01", "image": "registry.example.com/magpie-tts:v1"},
        "tokenlabs_riva_stt": {"host": NIM, "port": PORT, "protocol": "http", "access": ["pro", "enterprise"]},
    }
    file.write_text(before + "\n" + yaml.safe_dump(wanted))
    for name in ("gateway", "inference"):
        done = site.play(name)
        assert done.code == 0, done.text

    # A tier that may use some models only may speak, too.
    status, sound = speak()
    assert (status, sound[:4]) == (200, b"RIFF")
    assert speak("nobody")[0] == 400
    place = kubectl(
        "-n", "token-labs", "get", "pod", "-l", "app=magpie-tts", "-o", "jsonpath={.items[0].spec.nodeName}"
    )
    assert place == "spark-01"

    status, text = hear()
    assert (status, json.loads(text)) == (200, {"text": "what was said"})
    assert hear("demo-free")[0] == 403
    with urllib.request.urlopen(f"{nim}/seen") as answer:
        seen = json.loads(answer.read())
    # No tenant's key leaves the gateway, and nothing that tells who asked.
    assert seen and not [each for each in seen if each["foreign"] or each["tenants"]]

    verdict = site.play("verify")
    assert verdict.code == 0, verdict.text
    said = " ".join(verdict.text.split())
    assert "ok audio: speech" in said and "ok audio: transcriptions" in said
    again = site.play("inference")
    assert (again.code, again.changed) == (0, 0), again.text

    file.write_text(before)
    for name in ("gateway", "inference"):
        done = site.play(name)
        assert done.code == 0, done.text
    kinds = "deployment,service,httproute,backend.gateway.envoyproxy.io,httproutefilter,secret"
    left = kubectl("-n", "token-labs", "get", kinds, "-o", "name")
    assert "magpie" not in left and "riva" not in left
    refused("/v1/audio/speech")
    refused(OWN_PATH)
    again = site.play("inference")
    assert (again.code, again.changed) == (0, 0), again.text
