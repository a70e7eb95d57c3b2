# SPDX-License-Identifier: GPL-3.0-or-later
"""Speech through the gateway: what the roles and the module of the policies make answers as it should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from aiohttp import web
from ansible_collections.tokenlabs.platform.plugins.module_utils import _policies as policies

from lab.gateway.speechserver import SpeechServer
from tests.lab.gateway_harness import GATEWAY, NAMESPACE, Answer, Doc, Lab, Make, b64, meta, service, true
from tests.ports import free_port

pytest_plugins = ["tests.lab.gateway_fixtures"]

ROLES = Path(__file__).resolve().parents[2] / "roles"
SPEECH, TEXT = "/v1/audio/speech", "/v1/audio/transcriptions"
PARENT = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY, "namespace": NAMESPACE}
TIER = {"requests": {"1m": 1000}, "tokens": {"1m": 100000}, "models": None}
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
    b'--x\r\nContent-Disposition: form-data; name="language"\r\n\r\nen-US\r\n--x--\r\n'
)
KEY = "nvapi-own-key"


def objects(role: str, **variables: Any) -> list[tuple[str, Doc]]:
    """What a role's template renders, with the status that a controller would give it."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["to_json"] = json.dumps
    text = environment.from_string((ROLES / role / "templates/objects.yaml.j2").read_text())
    common = {f"{role}_namespace": NAMESPACE, f"{role}_parents": [PARENT], f"__{role}_labels": {"a": "b"}}
    common |= {f"__{role}_api": "gateway.networking.k8s.io/v1"}
    found = []
    for document in yaml.safe_load_all(text.render(**common, **variables)):
        document["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
        if document["kind"] == "HTTPRoute":
            document["status"] = {"parents": [{"parentRef": PARENT, "conditions": true("Accepted", "ResolvedRefs")}]}
        if document["kind"] not in ("Deployment", "Service"):
            found.append((document["kind"], document))
    return found


@pytest.fixture
def speaking(make: Make) -> Iterator[Callable[..., tuple[Lab, SpeechServer]]]:
    """A gateway with speech in both directions, and the server behind both."""
    runners: list[tuple[Lab, web.AppRunner]] = []

    def build(credential: bool, services: dict[str, list[str] | None]) -> tuple[Lab, SpeechServer]:
        lab, server, port = make().standard(), SpeechServer(KEY if credential else ""), free_port()

        async def start() -> None:
            runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            runners.append((lab, runner))

        lab.run(start())
        tiers = {"free": {**TIER, "models": ["small"]}, "pro": TIER, "enterprise": TIER}
        names = {"small": "small", "large": "large"}
        spec = policies.Spec(tiers, ["/v1/chat/completions"], names, GATEWAY, NAMESPACE, services=services)
        auth = policies.auth_policy(spec) | {"status": {"conditions": true("Accepted", "Enforced")}}
        # As the controllers of the cluster see the labels of this harness's tenants.
        labels = {"authorino.kuadrant.io/managed-by": "authorino", "app": "token-labs"}
        auth["spec"]["overrides"]["rules"]["authentication"]["api-key"]["apiKey"]["selector"]["matchLabels"] = labels
        speech = {"resources": {}, "host": "n", "image": "i", "tolerations": [], "pull_secret": None}
        rewrites = {"/v1/audio/models": "/v1/models", "/v1/audio/health": "/health"}
        outside = {"host": "127.0.0.1", "port": port, "path": TEXT, "tls": False, "timeout_seconds": 5}
        lab.put(
            ("AuthPolicy", auth),
            ("Secret", {"metadata": meta("riva-stt"), "data": {"credential": b64(f"Bearer {KEY}")}}),
            *service("magpie-tts", NAMESPACE, 80, port),
            *objects(
                "magpie_tts",
                magpie_tts_service={**speech, "startup_seconds": 900},
                magpie_tts_cache="/c",
                magpie_tts_request_timeout="300s",
                __magpie_tts_select={},
                __magpie_tts_rewrites=rewrites,
            ),
            *objects(
                "riva_stt",
                riva_stt_service={**outside, "credential": credential},
                __riva_stt_path=TEXT,
                __riva_stt_is_address=True,
            ),
        )
        return lab, server

    yield build
    for lab, runner in runners:
        lab.run(asyncio.wait_for(runner.cleanup(), 5))


def hear(lab: Lab, key: str | None) -> Answer:
    return lab.ask(TEXT, FORM, key=key, headers=[("Content-Type", "multipart/form-data; boundary=x")])


def test_who_may_speak_and_who_may_be_heard(speaking: Callable[..., tuple[Lab, SpeechServer]]) -> None:
    services = {SPEECH: None, "/v1/audio/models": None, "/v1/audio/health": None, TEXT: ["pro"]}
    lab, _server = speaking(True, services)
    said = {"input": "Hello.", "voice": "sofia"}
    # key-acme is of the tier free, which may use one model only.
    assert [lab.ask(SPEECH, said, key=key).status for key in (None, "key-wrong", "key-acme", "key-pro")] == [
        401,
        401,
        200,
        200,
    ]
    answer = lab.ask(SPEECH, said, key="key-pro")
    assert (answer.body[:4], answer.header("content-type")) == (b"RIFF", "audio/wav")
    assert lab.ask(SPEECH, {**said, "voice": "nobody"}, key="key-pro").status == 400
    assert lab.ask("/v1/audio/models", key="key-pro").json["data"][0]["id"] == "magpie-tts"
    assert lab.ask("/v1/audio/health", key="key-pro").json["model_loaded"] is True
    assert lab.ask("/v1/audio/health").status == 401
    assert [hear(lab, key).status for key in (None, "key-acme", "key-pro")] == [401, 403, 200]
    assert hear(lab, "key-pro").json == {"text": "what was said"}
    # Models are still the models'.
    assert lab.chat("key-acme").status == 200 and lab.chat("key-acme", model="large").status == 403


def test_paths_that_are_not_wanted_stay_closed(speaking: Callable[..., tuple[Lab, SpeechServer]]) -> None:
    lab, server = speaking(True, {})
    assert lab.ask(SPEECH, {"input": "x"}, key="key-pro").status == 403
    assert hear(lab, "key-pro").status == 403
    assert server.seen == []


@pytest.mark.parametrize("credential", [True, False])
def test_nobody_outside_learns_who_asked(credential: bool, speaking: Callable[..., tuple[Lab, SpeechServer]]) -> None:
    lab, server = speaking(credential, {TEXT: None})
    assert hear(lab, "key-pro").status == 200
    (seen,) = server.seen
    assert (seen["right"], seen["foreign"], seen["tenants"]) == (True, False, [])


def test_without_its_key_the_way_out_is_closed(speaking: Callable[..., tuple[Lab, SpeechServer]]) -> None:
    lab, server = speaking(True, {TEXT: None})
    lab.remove("Secret", "riva-stt")
    assert hear(lab, "key-pro").status == 500
    assert server.seen == []
