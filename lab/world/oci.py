# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts packaged charts into an OCI registry, as `helm push` does, under any name and tag."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import quote, urljoin, urlsplit

import urllib3

from lab.world.store import Json

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.cncf.helm.config.v1+json"
CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


class Registry:
    """A registry without TLS and without accounts."""

    def __init__(self, host: str) -> None:
        self.base = f"http://{host}"
        self._http = urllib3.PoolManager(retries=urllib3.Retry(connect=20, backoff_factor=0.1), timeout=30)

    def push_chart(self, repository: str, tag: str, archive: bytes, metadata: Json) -> None:
        """Stores a chart's archive; tags cannot hold a `+`."""
        layer = self._blob(repository, CHART, archive)
        config = self._blob(repository, CONFIG, json.dumps(metadata, sort_keys=True).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": {
                "org.opencontainers.image.title": metadata["name"],
                "org.opencontainers.image.version": metadata["version"],
            },
        }
        path = f"/v2/{repository}/manifests/{quote(tag.replace('+', '_'))}"
        self._send("PUT", path, json.dumps(manifest).encode(), MANIFEST)

    def _blob(self, repository: str, media_type: str, data: bytes) -> Json:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        opened = self._send("POST", f"/v2/{repository}/blobs/uploads/", b"")
        place = urlsplit(urljoin(self.base, opened.headers["Location"]))
        query = "&".join(filter(None, (place.query, f"digest={quote(digest)}")))
        self._send("PUT", f"{place.path}?{query}", data, "application/octet-stream")
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _send(self, method: str, path: str, body: bytes, content_type: str | None = None) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = self._http.request(method, self.base + path, body=body, headers=headers)
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.data[:300]!r}")
        return answer
