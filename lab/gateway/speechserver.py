# SPDX-License-Identifier: GPL-3.0-or-later
"""A speech server without a voice: text to speech, and speech to text, with the answers of the real ones.

Run as ``python -m lab.gateway.speechserver --listen IP:PORT [--key KEY]``. With a key it takes requests with that key
only, as NVIDIA's endpoint does. What it says is silence, as long as the text; what it hears is always the same.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import wave
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from lab.gateway.modelserver import listen

VOICES = ("john", "sofia", "aria", "jason", "leo")
LANGUAGES = ("en", "es", "de", "fr", "vi", "it", "zh")
RATE = 22050


def speech(text: str) -> bytes:
    """A twentieth of a second for each letter."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(b"\0\0" * (RATE // 20 * len(text)))
    return file.getvalue()


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"detail": message}, status=status)


class SpeechServer:
    def __init__(self, key: str = "") -> None:
        self.key = key
        # What came with requests, for tests: whether the key was right, and headers that give tenants away.
        self.seen: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.add_routes(
            [
                web.post("/v1/audio/speech", self._speak),
                web.post("/v1/audio/transcriptions", self._listen),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/seen", self._seen),
            ]
        )
        return app

    def _note(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "")
        right = not self.key or given == f"Bearer {self.key}"
        tenants = sorted(name for name in map(str.lower, request.headers) if name.startswith("x-tokenlabs"))
        foreign = "tlabs_sk_" in given
        self.seen.append({"right": right, "foreign": foreign, "tenants": tenants, "host": request.host})
        return right

    async def _speak(self, request: web.Request) -> web.Response:
        self._note(request)
        try:
            body = json.loads(await request.read())
            text, voice = body["input"], body.get("voice", "sofia")
        except (ValueError, KeyError, TypeError):
            return _error(422, "input is missing")
        if not isinstance(text, str) or not text.strip():
            return _error(400, "input is empty")
        if voice not in VOICES or body.get("language", "en") not in LANGUAGES:
            return _error(400, f"unknown voice or language: {voice}")
        return web.Response(body=speech(text), content_type="audio/wav")

    async def _listen(self, request: web.Request) -> web.Response:
        if not self._note(request):
            return _error(401, "wrong key")
        form = await request.post()
        file = form.get("file")
        if not isinstance(file, web.FileField) or not (form.get("language") or form.get("model")):
            return _error(400, "file, and language or model, must be given")
        return web.json_response({"text": "what was said"})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "magpie-tts", "object": "model"}]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "model_loaded": True})

    async def _seen(self, _: web.Request) -> web.Response:
        return web.json_response(self.seen)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.gateway.speechserver", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="IP:PORT")
    parser.add_argument("--key", default="", help="the only key that transcriptions take")
    return parser.parse_args(arguments)


def main() -> int:
    options = parse_arguments()
    asyncio.run(listen(SpeechServer(options.key).app(), options.listen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
