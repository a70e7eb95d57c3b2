# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens of OpenID Connect issuers, verified as Authorino does: signature, issuer and times; any audience."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import aiohttp
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

log = logging.getLogger("lab.gateway.jwt")

_HASHES = {"RS256": hashes.SHA256(), "RS384": hashes.SHA384(), "RS512": hashes.SHA512()}
_PATIENCE = aiohttp.ClientTimeout(total=3)


class Refused(Exception):
    """A token that is not accepted, and why."""


def _decoded(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("malformed jwt") from error


def _document(part: str) -> dict[str, Any]:
    try:
        found = json.loads(_decoded(part))
    except ValueError as error:
        raise Refused("malformed jwt") from error
    if not isinstance(found, dict):
        raise Refused("malformed jwt")
    return found


def _number(text: str) -> int:
    return int.from_bytes(_decoded(text), "big")


class Issuers:
    """The public keys of the issuers that policies name. They are read when a policy is built, not for each request."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._keys: dict[str, dict[str, rsa.RSAPublicKey]] = {}

    async def configure(self, wanted: Collection[str]) -> None:
        """Read the keys of issuers that are new, or could not be read before."""
        self._keys = {issuer: keys for issuer, keys in self._keys.items() if issuer in wanted}
        for issuer in sorted(set(wanted) - set(self._keys)):
            try:
                self._keys[issuer] = await _read(issuer)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, Refused) as error:
                log.warning("the keys of %s cannot be read: %s", issuer, type(error).__name__)

    def claims(self, issuer: str, token: str) -> Mapping[str, Any]:
        """What a good token says."""
        parts = token.split(".")
        if len(parts) != 3:
            raise Refused("malformed jwt")
        header, claims = _document(parts[0]), _document(parts[1])
        keys = self._keys.get(issuer)
        if keys is None:
            raise Refused("missing openid connect configuration")
        algorithm = _HASHES.get(str(header.get("alg")))
        key = keys.get(str(header.get("kid", "")))
        if algorithm is None or key is None:
            raise Refused("failed to verify signature")
        try:
            key.verify(_decoded(parts[2]), f"{parts[0]}.{parts[1]}".encode(), padding.PKCS1v15(), algorithm)
        except InvalidSignature as error:
            raise Refused("failed to verify signature") from error
        if claims.get("iss") != issuer:
            raise Refused("id token issued by a different provider")
        now = self._clock()
        if not isinstance(claims.get("exp"), (int, float)) or claims["exp"] <= now:
            raise Refused("token is expired")
        if isinstance(claims.get("nbf"), (int, float)) and claims["nbf"] > now + 300:
            raise Refused("current time is before the nbf time")
        return claims


async def _read(issuer: str) -> dict[str, rsa.RSAPublicKey]:
    async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
        async with session.get(issuer.rstrip("/") + "/.well-known/openid-configuration") as answer:
            told = json.loads(await answer.text())
        if told.get("issuer") != issuer:
            raise Refused("another issuer")
        async with session.get(told["jwks_uri"]) as answer:
            listed = json.loads(await answer.text())
    return {
        str(key.get("kid", "")): rsa.RSAPublicNumbers(_number(key["e"]), _number(key["n"])).public_key()
        for key in listed["keys"]
        if key.get("kty") == "RSA" and key.get("use", "sig") == "sig"
    }
