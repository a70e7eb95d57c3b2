# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare loop that creates Secrets with some threads: nothing is read, checked, remembered or written to a disk.

python -m tests.bench.create_loop URL PKI NAMESPACE NUMBER WORKERS
"""

from __future__ import annotations

import base64
import json
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor

import urllib3


def body(name: str, tenant: str) -> dict[str, object]:
    """A Secret as the module makes it."""
    key = "tlabs_sk_" + secrets.token_urlsafe(32)
    labels = {
        "app": "token-labs",
        "app.kubernetes.io/managed-by": "tokenlabs",
        "authorino.kuadrant.io/managed-by": "authorino",
        "tokenlabs.io/credential": "api-key",
        "tokenlabs.io/key": "default",
        "tokenlabs.io/state": "active",
        "tokenlabs.io/tenant": tenant,
    }
    annotations = {
        "kuadrant.io/groups": "free",
        "secret.kuadrant.io/user-id": tenant,
        "tokenlabs.io/created-at": "2026-01-01T00:00:00Z",
        "tokenlabs.io/fingerprint": "sha256:00000000",
        "tokenlabs.io/generation": "1",
    }
    metadata = {"name": name, "labels": labels, "annotations": annotations}
    data = {"api_key": base64.b64encode(key.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def main(url: str, pki: str, namespace: str, number: int, workers: int) -> None:
    pool = urllib3.PoolManager(
        ca_certs=f"{pki}/ca.crt", cert_file=f"{pki}/admin.crt", key_file=f"{pki}/admin.key", maxsize=workers
    )
    target = f"{url}/api/v1/namespaces/{namespace}/secrets"

    def create(position: int) -> None:
        secret = body(f"loop-{secrets.token_hex(5)}", f"t{position:06d}")
        answer = pool.request("POST", target, body=json.dumps(secret), headers={"Content-Type": "application/json"})
        assert answer.status == 201, answer.data

    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(create, range(number)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
