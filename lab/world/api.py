# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Kubernetes client: requests, paged lists and watches over one urllib3 pool."""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
# Objects whose metadata is all that is wanted (CRDs are big) are asked for in this form.
METADATA_ONLY = "application/json;as={}PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class ApiError(Exception):
    """An answer of the API server that is not a success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class Expired(Exception):
    """The resource version that a watch started from is gone: list again."""


@dataclass(frozen=True)
class Credentials:
    """What a kubeconfig says about its current context."""

    server: str
    ca: bytes | None
    cert: bytes | None
    key: bytes | None
    token: str | None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Credentials:
        config = yaml.safe_load(Path(path).read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        return cls(
            server=cluster["server"],
            ca=_material(cluster, "certificate-authority"),
            cert=_material(user, "client-certificate"),
            key=_material(user, "client-key"),
            token=user.get("token"),
        )


def _named(items: list[Json], name: str) -> Json:
    return next(item for item in items if item["name"] == name)


def _material(source: Json, field: str) -> bytes | None:
    if data := source.get(f"{field}-data"):
        return base64.b64decode(data)
    return Path(source[field]).read_bytes() if source.get(field) else None


def _tls(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=credentials.ca.decode() if credentials.ca else None)
    if credentials.cert and credentials.key:
        # ssl only loads a client certificate from a file.
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(credentials.cert + b"\n" + credentials.key)
            pem.flush()
            context.load_cert_chain(pem.name)
    return context


class Api:
    """Requests against one API server, safe to share between threads."""

    def __init__(self, kubeconfig: str | os.PathLike[str], agent: str = "lab-world") -> None:
        credentials = Credentials.load(kubeconfig)
        self.server = credentials.server.rstrip("/")
        self._headers = {"User-Agent": agent, "Accept": "application/json"}
        if credentials.token:
            self._headers["Authorization"] = f"Bearer {credentials.token}"
        tls = _tls(credentials) if self.server.startswith("https") else None
        self._http = urllib3.PoolManager(
            maxsize=80, ssl_context=tls, retries=False, timeout=urllib3.Timeout(connect=5, read=30)
        )

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        accept: str | None = None,
        query: dict[str, str] | None = None,
    ) -> Json:
        headers = dict(self._headers)
        if accept:
            headers["Accept"] = accept
        if body is not None:
            headers["Content-Type"] = content_type
        answer = self._http.request(
            method,
            self._url(path, query),
            body=None if body is None else json.dumps(body).encode(),
            headers=headers,
        )
        if answer.status >= 400:
            raise _error(answer.status, answer.data)
        return json.loads(answer.data)

    def get(self, path: str) -> Json | None:
        """The object at a path, or nothing when there is none."""
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self, path: str, selectors: dict[str, str] | None = None, metadata_only: bool = False
    ) -> tuple[list[Json], str]:
        """All objects at a path, page by page, and the resource version to watch from."""
        items: list[Json] = []
        query = {**(selectors or {}), "limit": "500"}
        accept = METADATA_ONLY.format("", "List") if metadata_only else None
        while True:
            page = self.request("GET", path, query=query, accept=accept)
            items += page.get("items") or []
            if not (more := page["metadata"].get("continue")):
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = more

    def watch(
        self,
        path: str,
        version: str,
        selectors: dict[str, str] | None = None,
        metadata_only: bool = False,
        seconds: int = 300,
    ) -> Iterator[tuple[str, Json]]:
        """Events since a resource version; ends when the server closes the stream."""
        query = {
            **(selectors or {}),
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        headers = dict(self._headers)
        if metadata_only:
            headers["Accept"] = METADATA_ONLY.format("", "")
        answer = self._http.request(
            "GET",
            self._url(path, query),
            headers=headers,
            preload_content=False,
            timeout=urllib3.Timeout(connect=5, read=seconds + 30),
        )
        try:
            if answer.status >= 400:
                raise _error(answer.status, answer.read())
            rest = b""
            while chunk := answer.read1():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        if event["object"].get("code") == 410:
                            raise Expired
                        raise _error(event["object"].get("code", 500), json.dumps(event["object"]).encode())
                    yield event["type"], event["object"]
        finally:
            answer.close()

    def _url(self, path: str, query: dict[str, str] | None) -> str:
        return f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")


def _error(status: int, data: bytes) -> ApiError:
    if status == 410:
        raise Expired
    try:
        answer = json.loads(data)
        return ApiError(status, answer.get("reason", ""), answer.get("message", ""))
    except ValueError:
        return ApiError(status, "", data[:300].decode(errors="replace"))
