# SPDX-License-Identifier: GPL-3.0-or-later
"""An identity provider with a key made for this run: what OpenID Connect asks of it, and tokens."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def text64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number64(number: int) -> str:
    return text64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


class Issuer:
    """Serves its documents until it is closed; over TLS when it is given a context."""

    def __init__(self, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                numbers = issuer.key.public_key().public_numbers()
                told: dict[str, Any] = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
                if self.path == "/keys":
                    key = {"kty": "RSA", "kid": "a", "use": "sig", "n": number64(numbers.n), "e": number64(numbers.e)}
                    told = {"keys": [key]}
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((host, 0), Handler)
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if context else ''}://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, key: rsa.RSAPrivateKey | None = None, head: dict[str, Any] | None = None, **claims: Any) -> str:
        header = {"alg": "RS256", "kid": "a", **(head or {})}
        told = {"iss": self.url, "exp": time.time() + 60, "tier": "free", "tenant": "jane", **claims}
        told = {name: value for name, value in told.items() if value is not None}
        signed = f"{text64(json.dumps(header).encode())}.{text64(json.dumps(told).encode())}"
        signature = (key or self.key).sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{text64(signature)}"
