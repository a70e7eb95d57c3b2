# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gateway, its counters and its identity provider in the inventory: rules, and what is derived from them.

Pure. Private to the collection.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import (
    Flag,
    Items,
    Number,
    Path,
    Record,
    Report,
    Table,
    Text,
)

Data = dict[str, Any]

GATEWAY = "token-labs-gateway"
GATEWAY_CLASS = "eg"
TLS_SECRET = "token-labs-gateway-tls"
REDIS_HOST = "redis.redis-system.svc.cluster.local"
REDIS_PORT = 6379
# Limitador counts in a database of its own; Envoy Gateway's service knows only the first one.
LIMITADOR_DATABASE = 1

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = rf"{_DNS_LABEL}(\.{_DNS_LABEL})*"
_ORIGIN = Text(
    rf"https?://({_DNS_NAME})(:[0-9]{{1,5}})?", "an origin such as https://chat.example.com, without a path or a star"
)
_CLAIM = Text(r"[A-Za-z_][A-Za-z0-9_]{0,63}", "the name of a claim such as tokenlabs_tier: letters, digits and _")

SETTINGS: dict[str, Any] = {
    "tokenlabs_gateway": Record(
        {
            "http_port": Number(1, 65535),
            "https_port": Number(1, 65535),
            "http": Text(choices=("serve", "redirect")),
            "address": Text(),
            "tls": Record(
                {
                    "certificate": Text(),
                    "key": Text(),
                    "secret": Text(_DNS_NAME, "the name of a Secret", longest=253),
                    "self_signed": Items(
                        Text(rf"(\*\.)?{_DNS_NAME}", "a host name or an IPv4 address", longest=253),
                        filled=True,
                        example="[api.example.com]",
                    ),
                },
                what="setting",
            ),
            "cors": Record(
                {"origins": Items(_ORIGIN, filled=True, example="[https://chat.example.com]")},
                required=("origins",),
                what="setting",
            ),
            "replicas": Number(1, 32),
            "node_selector": Table(Text(), Text(empty=True), example="{kubernetes.io/hostname: controller}"),
        },
        what="setting",
        hints={
            "hostname": "there is none: with a host name, requests that write it in capitals would pass without a key",
            "body_limit": "it is the variable gateway_body_limit of the role gateway",
        },
    ),
    "tokenlabs_redis": Record(
        {"host": Text(), "port": Number(1, 65535), "tls": Flag()}, required=("host",), what="setting"
    ),
    "tokenlabs_limits_unavailable": Text(choices=("allow", "deny")),
    "tokenlabs_oidc": Record(
        {"issuer": Text(), "tier_claim": _CLAIM, "tenant_claim": _CLAIM},
        required=("issuer", "tier_claim", "tenant_claim"),
        what="setting",
    ),
}


def validate(shared: Mapping[str, Any], fine: Mapping[str, bool], report: Report) -> None:
    """What is wrong with settings that have the right form one by one."""
    for name, rule in (("tokenlabs_gateway", _gateway), ("tokenlabs_redis", _redis), ("tokenlabs_oidc", _oidc)):
        if fine.get(name):
            rule(shared, report)


def _gateway(shared: Mapping[str, Any], report: Report) -> None:
    gateway = shared["tokenlabs_gateway"]
    where: Path = ("tokenlabs_gateway",)
    tls = gateway.get("tls")
    if tls is None:
        for key in ("https_port", "http"):
            if gateway.get(key) is not None:
                report((*where, key), "has no effect without a certificate", "add tls, or remove it")
        return
    given = [key for key in ("certificate", "secret", "self_signed") if tls.get(key) is not None]
    if tls.get("key") is not None and "certificate" not in given:
        report((*where, "tls", "key"), "is set without a certificate", "add certificate, or remove it")
    elif len(given) != 1:
        reason = f"has {' and '.join(given)}" if given else "says nothing of where the certificate comes from"
        report(
            (*where, "tls"),
            reason,
            "write either certificate and key (files), or secret (the name of one), or self_signed (names)",
        )
    elif given == ["certificate"] and tls.get("key") is None:
        report((*where, "tls", "certificate"), "is set without its key", "add key, the file with the private key")
    http, https = gateway.get("http_port") or 80, gateway.get("https_port") or 443
    if http == https:
        report((*where, "https_port"), f"is {https}, the port for HTTP", "choose another one")


def _redis(shared: Mapping[str, Any], report: Report) -> None:
    redis = shared["tokenlabs_redis"]
    where: Path = ("tokenlabs_redis", "host")
    host = redis["host"]
    if "://" in host or "@" in host or "/" in host:
        report(where, "is an address with more than a host in it", "write the host alone; port and tls have keys")
    elif re.fullmatch(r"[^:]+:[0-9]+", host):
        report(where, "has a port in it", f"write port: {host.rpartition(':')[2]} beside it")
    elif host == "localhost" or _loopback(host):
        report(where, f"is {host}, which is another machine for each pod", "write a name or address that pods reach")
    elif host == "redis.redis-system" or host.startswith("redis.redis-system."):
        report(where, "is the Redis that the platform runs itself", "leave tokenlabs_redis out to use it")
    elif not re.fullmatch(_DNS_NAME, host):
        report(where, f"is '{host}', not a name or IPv4 address", "write one such as redis.example.com")
    if shared.get("tokenlabs_redis_password") is None:
        report(
            ("tokenlabs_redis",),
            "is a Redis of your own, and there is no password for it",
            "set tokenlabs_redis_password: without one anybody who reaches it could change what tenants have used",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _oidc(shared: Mapping[str, Any], report: Report) -> None:
    oidc = shared["tokenlabs_oidc"]
    issuer = oidc["issuer"]
    where: Path = ("tokenlabs_oidc", "issuer")
    if issuer.startswith("http://"):
        report(where, "is not encrypted: whoever is in between could sign tokens", "write https://")
    elif not re.fullmatch(rf"https://{_DNS_NAME}(:[0-9]{{1,5}})?(/[A-Za-z0-9._~%-]+)*/?", issuer):
        report(
            where, f"is '{issuer}', not an issuer", "write the iss of its tokens, as https://id.example.com/realms/x"
        )
    if oidc["tier_claim"] == oidc["tenant_claim"]:
        report(("tokenlabs_oidc", "tenant_claim"), "is the claim of the tier too", "name two claims")
    for key in ("tier_claim", "tenant_claim"):
        if oidc[key] in ("iss", "aud", "exp", "nbf", "iat", "jti", "scope"):
            report(("tokenlabs_oidc", key), f"is {oidc[key]}, which says something else", "name a claim of your own")


# --- what is derived -------------------------------------------------------------------------------------------------


def derive_gateway(shared: Mapping[str, Any], namespace: str, directory: str) -> Data:
    """The gateway of the catalog. Files are beside the inventory."""
    given = shared.get("tokenlabs_gateway") or {}
    tls = _tls(given, directory)
    redirect = bool(tls) and given.get("http") == "redirect"
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY, "namespace": namespace}
    return {
        "name": GATEWAY,
        "namespace": namespace,
        "class": GATEWAY_CLASS,
        "address": given.get("address"),
        "http_port": given.get("http_port") or 80,
        "https_port": (given.get("https_port") or 443) if tls else None,
        "redirect": redirect,
        "tls": tls,
        "cors": dict(given["cors"]) if given.get("cors") else None,
        "replicas": given.get("replicas") or 1,
        "node_selector": dict(given.get("node_selector") or {}),
        # What every route says of the Gateway: with a redirection, models are served on the other listener alone.
        "parents": [{**parent, "sectionName": "https"} if redirect else parent],
    }


def certificate_files(shared: Mapping[str, Any], directory: str) -> dict[str, str] | None:
    """The files with certificate and key, where both are named. What has another form is reported with the rest."""
    gateway = shared.get("tokenlabs_gateway")
    tls = gateway.get("tls") if isinstance(gateway, Mapping) else None
    named = {key: tls.get(key) for key in ("certificate", "key")} if isinstance(tls, Mapping) else {}
    files = {
        key: os.path.join(directory, name) for key, name in named.items() if isinstance(name, str) and name.strip()
    }
    return files if len(files) == 2 else None


def _tls(given: Mapping[str, Any], directory: str) -> Data | None:
    tls = given.get("tls")
    if not tls:
        return None
    if tls.get("secret"):
        return {"secret": tls["secret"]}
    if tls.get("self_signed"):
        return {"secret": TLS_SECRET, "names": list(tls["self_signed"])}
    return {"secret": TLS_SECRET, **(certificate_files({"tokenlabs_gateway": given}, directory) or {})}


def derive_redis(shared: Mapping[str, Any]) -> Data:
    """Where limits are counted. The password is no part of it."""
    given = shared.get("tokenlabs_redis")
    if not given:
        return {"own": True, "host": REDIS_HOST, "port": REDIS_PORT, "tls": False}
    tls = given.get("tls")
    return {
        "own": False,
        "host": given["host"],
        "port": given.get("port") or REDIS_PORT,
        "tls": True if tls is None else tls,
    }
