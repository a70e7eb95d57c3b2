# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to hold for a platform that works, derived from its catalog, and how that is told.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

Data = dict[str, Any]

CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
SPEECH = "/v1/audio/speech"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
_FORM = "multipart/form-data; boundary=x"
# The AI gateway would serve it, and nobody could count its tokens.
UNLISTED = "/v1/responses"
# As long as a real key, so that nothing but the key itself is wrong.
WRONG_KEY = "tlabs_sk_" + "0" * 43
FOREIGN_HOST = "GATEWAY.EXAMPLE.COM"
PROBE_PREFIX = "verify"

KUADRANT_SYSTEM = "kuadrant-system"
ENVOY_SYSTEM = "envoy-gateway-system"
OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"

# A key made a moment ago must have come to Authorino; one that was suspended must have left it.
NEW_KEY_PATIENCE = 20
SUSPENSION_PATIENCE = 10
LARGEST_PROMPT = 2000
BURST = 8
# Of those that come at once, a filter that cuts streams cuts about every fourth.
SHORT_STREAMS = 12
MOST_VOICES = 5


# --- Results ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    group: str
    name: str
    status: str
    expected: str = ""
    got: str = ""
    hint: str = ""

    def line(self) -> str:
        text = f"{self.status:<7} {self.group}: {self.name}"
        if self.status == OK:
            return text
        told = [f"expected {self.expected}" if self.expected else "", f"got {self.got}" if self.got else ""]
        told += [f"look at {self.hint}" if self.hint else ""]
        return f"{text}; " + "; ".join(part for part in told if part)


def rows_of(report: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [Row(**{key: str(value) for key, value in row.items()}) for row in report]


def table(report: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each check, and one for all of them."""
    rows = rows_of(report)
    counted = {status: sum(row.status == status for row in rows) for status in (OK, FAILED, SKIPPED)}
    total = ", ".join(f"{number} {status}" for status, number in counted.items() if number)
    return [*(row.line() for row in rows), f"{len(rows)} checks: {total}"]


def failures(report: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row.line().split(maxsplit=1)[1] for row in rows_of(report) if row.status == FAILED]


def junit(report: Sequence[Mapping[str, Any]], name: str = "tokenlabs") -> str:
    """The report as CI systems read it."""
    rows = rows_of(report)
    suites = ElementTree.Element("testsuites", name=name)
    for group in dict.fromkeys(row.group for row in rows):
        mine = [row for row in rows if row.group == group]
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=group,
            tests=str(len(mine)),
            failures=str(sum(row.status == FAILED for row in mine)),
            skipped=str(sum(row.status == SKIPPED for row in mine)),
        )
        for row in mine:
            case = ElementTree.SubElement(suite, "testcase", classname=f"{name}.{group}", name=row.name)
            told = _printable(f"expected {row.expected}; got {row.got}; look at {row.hint}")
            if row.status == FAILED:
                ElementTree.SubElement(case, "failure", message=_printable(row.got or "not as expected")).text = told
            elif row.status == SKIPPED:
                ElementTree.SubElement(case, "skipped", message=_printable(row.got))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _printable(text: str) -> str:
    """XML cannot hold control characters, and an answer of a broken gateway may."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd]", "?", text)


def render(report: Sequence[Mapping[str, Any]], form: str) -> Any:
    """The report as a table (a list of lines), as failures alone, as JSON or as JUnit's XML."""
    if form == "table":
        return table(report)
    if form == "failures":
        return failures(report)
    if form == "json":
        return json.dumps({"ok": not failures(report), "checks": list(report)}, indent=2) + "\n"
    if form == "junit":
        return junit(report)
    raise ValueError(f"unknown form {form!r}; known are table, failures, json, junit")


# --- Objects of the cluster ---------------------------------------------------------------------------------------


def checks(catalog: Mapping[str, Any]) -> list[Data]:
    """What must be ready: a name for people, what to look at, and the object as wait_ready wants it."""
    found = [_node(node) for node in expected_nodes(catalog).values()]
    found += [_check("definitions", f"{name} is installed", _definition(name), "crds") for name in DEFINITIONS]
    if _operates_gpus(catalog):
        found.append(
            _check(
                "components",
                "GPU operator is ready",
                {
                    **_object("nvidia.com/v1", "ClusterPolicy", "cluster-policy"),
                    "fields": [_field("status.state", "ready")],
                },
                "kubectl -n gpu-operator get pods",
            )
        )
    found += [
        _check(
            "components", f"{name} is available", _deployment(space, name), f"kubectl -n {space} describe deploy {name}"
        )
        for space, name in _deployments(catalog)
    ]
    if catalog["redis"]["own"]:
        found.append(
            _check(
                "components",
                "redis is ready",
                _object("apps/v1", "StatefulSet", "redis", "redis-system"),
                "kubectl -n redis-system describe pod redis-0",
            )
        )
    found += [
        _check(
            "components",
            "the AI gateway's webhook has a certificate",
            {
                **_object(
                    "admissionregistration.k8s.io/v1",
                    "MutatingWebhookConfiguration",
                    "envoy-ai-gateway-gateway-pod-mutator.envoy-ai-gateway-system",
                ),
                "fields": [_field("webhooks[0].clientConfig.caBundle")],
            },
            "kubectl -n envoy-ai-gateway-system logs deploy/ai-gateway-controller",
        ),
        _check(
            "components",
            "Kuadrant is ready",
            _object("kuadrant.io/v1beta1", "Kuadrant", "kuadrant", KUADRANT_SYSTEM),
            "kubectl -n kuadrant-system get kuadrant kuadrant -o yaml",
        ),
    ]
    return found + _gateway_checks(catalog)


DEFINITIONS = (
    "aigatewayroutes.aigateway.envoyproxy.io",
    "authpolicies.kuadrant.io",
    "backendtrafficpolicies.gateway.envoyproxy.io",
    "gateways.gateway.networking.k8s.io",
    "httproutefilters.gateway.envoyproxy.io",
    "httproutes.gateway.networking.k8s.io",
    "inferencepools.inference.networking.k8s.io",
    "limitadors.limitador.kuadrant.io",
    "ratelimitpolicies.kuadrant.io",
)


def expected_nodes(catalog: Mapping[str, Any]) -> Data:
    """By name. Where somebody else runs the cluster, the controller is where helm runs, and no Node."""
    elsewhere = catalog["cluster"] == "existing"
    return {name: node for name, node in catalog["nodes"].items() if not (elsewhere and node["role"] == "controller")}


def _operates_gpus(catalog: Mapping[str, Any]) -> bool:
    """Whether the GPU operator is this platform's. Whoever runs a cluster of his own may offer GPUs in another way."""
    return catalog["cluster"] == "microk8s" and any(node["gpu"] for node in catalog["nodes"].values())


def _deployments(catalog: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        *([("gpu-operator", "gpu-operator")] if _operates_gpus(catalog) else []),
        ("envoy-ai-gateway-system", "ai-gateway-controller"),
        (ENVOY_SYSTEM, "envoy-gateway"),
        (ENVOY_SYSTEM, "envoy-ratelimit"),
        (KUADRANT_SYSTEM, "kuadrant-operator-controller-manager"),
        (KUADRANT_SYSTEM, "authorino"),
        (KUADRANT_SYSTEM, "limitador-limitador"),
    ]


def _gateway_checks(catalog: Mapping[str, Any]) -> list[Data]:
    gateway = catalog["gateway"]
    space, api = gateway["namespace"], "gateway.networking.k8s.io/v1"

    def look(kind: str, name: str) -> str:
        return f"kubectl -n {space} get {kind.lower()} {name} -o yaml"

    found = [
        _check(
            "gateway",
            "the GatewayClass is accepted",
            _object(api, "GatewayClass", gateway["class"]),
            "envoy-gateway's log",
        ),
        _check(
            "gateway",
            "the Gateway is programmed and has an address",
            {
                **_object(api, "Gateway", gateway["name"], space),
                "conditions": ["Accepted", "Programmed"],
                "fields": [_field("status.addresses[0].value")],
            },
            f"{look('Gateway', gateway['name'])}; IPAddressPool in metallb-system",
        ),
    ]
    for model in catalog["models"]:
        pool, worker = model["picker"], model["deployment"]
        found += [
            _check(
                "models", f"{model['name']}: picker is available", _deployment(space, pool), look("Deployment", pool)
            ),
            _check(
                "models",
                f"{model['name']}: pool is accepted",
                _object("inference.networking.k8s.io/v1", "InferencePool", model["pool"], space),
                look("InferencePool", model["pool"]),
            ),
            _check(
                "models",
                f"{model['name']}: {model['replicas']} worker on {', '.join(model['hosts'])}",
                _deployment(space, worker),
                f"kubectl -n {space} describe pod -l llm-d.ai/model={model['label']}",
            ),
        ]
    if SPEECH in catalog["services"]:
        hint = f"kubectl -n {space} describe pod -l app=magpie-tts"
        found.append(_check("audio", "text to speech is available", _deployment(space, "magpie-tts"), hint))
    routes = [(api, "HTTPRoute", "models")]
    routes += [(api, "HTTPRoute", "magpie-tts")] if SPEECH in catalog["services"] else []
    routes += [(api, "HTTPRoute", "riva-stt")] if TRANSCRIPTIONS in catalog["services"] else []
    if catalog["models"]:
        routes += [
            ("aigateway.envoyproxy.io/v1alpha1", "AIGatewayRoute", "llm-inference"),
            (api, "HTTPRoute", "llm-inference"),
        ]
    for version, kind, name in routes:
        found.append(
            _check("routes", f"{kind} {name} is accepted", _object(version, kind, name, space), look(kind, name))
        )
    for version, kind, name, state in _policies(catalog):
        found.append(
            _check("policies", f"{kind} {name} is {state}", _object(version, kind, name, space), look(kind, name))
        )
    return found


def _policies(catalog: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    tokens = {
        "envoy": ("gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy", "token-labs-token-limits", "accepted"),
        "kuadrant": ("kuadrant.io/v1alpha1", "TokenRateLimitPolicy", "token-labs-token-limits", "enforced"),
    }
    return [
        ("kuadrant.io/v1", "AuthPolicy", "token-labs-auth", "enforced"),
        ("kuadrant.io/v1", "RateLimitPolicy", "token-labs-request-limits", "enforced"),
        ("gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy", "token-labs-answers", "accepted"),
        *([tokens[catalog["token_limits"]]] if catalog["models"] else []),
    ]


def _check(group: str, name: str, target: Data, hint: str) -> Data:
    return {"group": group, "name": name, "hint": hint, "object": target}


def _object(version: str, kind: str, name: str, namespace: str | None = None) -> Data:
    found: Data = {"api_version": version, "kind": kind, "name": name}
    return {**found, "namespace": namespace} if namespace else found


def _field(path: str, value: Any = None) -> Data:
    return {"path": path} if value is None else {"path": path, "value": value}


def _definition(name: str) -> Data:
    return _object("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)


def _deployment(namespace: str, name: str) -> Data:
    return _object("apps/v1", "Deployment", name, namespace)


def _node(node: Mapping[str, Any]) -> Data:
    name, slots = node["name"], node["gpu_slots"] if node["gpu"] else 0
    target = {**_object("v1", "Node", name), "conditions": ["Ready"]}
    if not slots:
        return _check("nodes", f"{name} is Ready", target, f"kubectl describe node {name}")
    target["fields"] = [_field('status.allocatable["nvidia.com/gpu"]', slots)]
    return _check(
        "nodes",
        f"{name} is Ready with {slots} GPU",
        target,
        f"kubectl describe node {name}; pods in gpu-operator; nvidia-smi on {name}",
    )


def object_rows(checked: Sequence[Mapping[str, Any]], waited: Mapping[str, Any]) -> list[Data]:
    """Rows for the checks, from what wait_ready returned for their objects."""
    pending = waited.get("pending") or {}
    ready = set(waited.get("ready") or [])
    rows = []
    for check in checked:
        target = check["object"]
        title = "/".join(part for part in (target["kind"], target.get("namespace"), target["name"]) if part)
        known = title in ready or title in pending
        # Without an answer of the API nothing is known of any object.
        got = (
            ""
            if title in ready
            else pending.get(title) or ("" if known else waited.get("msg") or "nothing was told about it")
        )
        status = OK if title in ready else FAILED
        rows.append(
            asdict(Row(check["group"], check["name"], status, "ready", "" if status == OK else got, check["hint"]))
        )
    return rows


def foreign_filters(catalog: Mapping[str, Any], policies: Iterable[Mapping[str, Any]]) -> Data:
    """A row about filters of others: one EnvoyExtensionPolicy more, and Kuadrant's filter is out of the way."""
    gateway = catalog["gateway"]
    names = {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in policies}
    own = f"{gateway['namespace']}/kuadrant-{gateway['name']}"
    foreign = sorted(name for name in names - {own} if name.startswith(f"{gateway['namespace']}/"))
    trouble = f"also {', '.join(foreign)}" if foreign else "" if own in names else "none at all"
    return asdict(
        Row(
            "policies",
            "Kuadrant's is the only EnvoyExtensionPolicy",
            FAILED if trouble else OK,
            own,
            trouble,
            f"kubectl -n {gateway['namespace']} get envoyextensionpolicies",
        )
    )


def tenant_rows(drift: Mapping[str, Any], made: Mapping[str, Any], gone: Mapping[str, Any]) -> list[Data]:
    """Whether the Secrets are as the inventory wants them (from a rehearsal of the module tenants), and whether the
    run could make its own tenants and remove them."""
    changes = [
        f"{what}: {', '.join(drift[what])}"
        for what in ("created", "updated", "suspended", "resumed", "deleted")
        if drift.get(what)
    ]
    got = _trouble(drift) or (f"would be {'; '.join(changes)}" if changes else "")
    hint = "Secrets tenant-NAME-* in kuadrant-system; playbooks/tenants.yml --check --diff"
    rows = [Row("tenants", "Secrets are as in the inventory", FAILED if got else OK, "nothing to change", got, hint)]
    for name, answer in (("made", made), ("removed", gone)):
        if answer and _trouble(answer):
            rows.append(Row("tenants", f"this run's tenants are {name}", FAILED, "no error", _trouble(answer), hint))
    return [asdict(row) for row in rows]


def _trouble(answer: Mapping[str, Any]) -> str:
    """Why the module tenants could not do its work; a task that must not end the run is never marked as failed."""
    complete = "counts" in answer and not answer.get("failed_tenants")
    return "" if complete else str(answer.get("msg") or "the module tenants did not answer")


# --- Requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """Somebody to send requests as."""

    name: str
    tier: str
    key_file: str
    state: str = "present"


def plan(
    catalog: Mapping[str, Any],
    tenants: Sequence[Mapping[str, Any]],
    key_files: Sequence[str],
    run: str = "",
    directory: str = "",
    largest_burst: int = 60,
    most_tenants: int = 20,
) -> Data:
    """All requests to send, and the tenants to make for them when this run has a name.

    Tenants of its own are needed for what uses up a limit, and are better for all else: nobody else's quota pays.
    """
    known = [
        Probe(tenant["name"], tenant["tier"], path, tenant.get("state") or "present")
        for tenant in tenants
        for path in key_files
        if path.rpartition("/")[2] == f"{tenant['name']}.key" and (tenant.get("state") or "present") != "absent"
    ]
    own = _own_tenants(catalog, run, directory) if run else []
    # The last three have their limits used up, or are suspended, in this run.
    speakers = own[:-3] if run else [probe for probe in known if probe.state == "present"]
    cases = [*_strangers(catalog), *_known_keys(known[:most_tenants])]
    skipped: list[Data] = []
    if own:
        cases += [_works(probe) for probe in own]
    cases += _speak(catalog, speakers, skipped)
    later: list[Data] = []
    if own:
        cases += _errors_of_each_tier(catalog, speakers)
        cases += _short_streams(catalog, max(speakers, key=lambda probe: _generous(catalog, probe)), skipped)
        requests, tokens, suspended = own[-3:]
        cases += _request_limit(catalog, requests, own, largest_burst, skipped)
        cases += _token_limit(catalog, tokens, own, largest_burst, skipped)
        later = [_suspended(suspended)]
    else:
        skipped += [
            _skipped("limits", name, "this run sends nothing that uses up a limit; verify.yml does")
            for name in (
                "requests over the limit",
                "tokens over the limit",
                "errors and short streams",
                "a tenant is suspended",
            )
        ]
    return {
        "tenants": [{"name": probe.name, "tier": probe.tier} for probe in own],
        "suspend": [{"name": own[-1].name, "tier": own[-1].tier, "state": "suspended"}] if own else [],
        "cases": [_public(case) for case in cases],
        "later": [_public(case) for case in later],
        "groups": {case["name"]: case["group"] for case in [*cases, *later]},
        "skipped": skipped,
    }


def _own_tenants(catalog: Mapping[str, Any], run: str, directory: str) -> list[Probe]:
    """One for each tier to speak as; then those whose limits are used up, and one to be suspended."""
    tightest = {what: _tightest(catalog, what)[0] for what in ("requests", "tokens")}
    wanted = [(f"{tier}{number or ''}", tier) for tier in catalog["tiers"] for number in range(_voices(catalog, tier))]
    wanted += [("burst", tightest["requests"]), ("tokens", tightest["tokens"]), ("suspended", tightest["requests"])]
    return [
        Probe(name, tier, f"{directory}/{name}.key")
        for part, tier in wanted
        for name in [f"{PROBE_PREFIX}-{run}-{part}"[:63].rstrip("-")]
    ]


def _voices(catalog: Mapping[str, Any], tier: str) -> int:
    """How many tenants of a tier it takes to ask for all its models, when each may send only so many requests."""
    models = _models_of(catalog, tier)
    extras = sum(bool(model.get("tools")) + bool(model.get("vision")) for model in models)
    needed = 6 + 2 * len(models) + extras + 2 * len(catalog["services"])
    limit = min(catalog["tiers"][tier]["requests"].values(), default=needed)
    return min(-(-needed // max(limit, 1)), MOST_VOICES)


def _tightest(catalog: Mapping[str, Any], what: str) -> tuple[str, int]:
    """The tier with the smallest limit, which can be reached with the fewest requests."""
    smallest = {name: min(tier[what].values()) for name, tier in catalog["tiers"].items() if tier[what]}
    if not smallest:
        return next(iter(catalog["tiers"])), 0
    name = min(sorted(smallest), key=lambda tier: smallest[tier])
    return name, smallest[name]


def may_use(catalog: Mapping[str, Any], tier: str, model: Mapping[str, Any]) -> bool:
    allowed = catalog["tiers"][tier]["models"]
    return not allowed or model["name"] in allowed


def _models_of(catalog: Mapping[str, Any], tier: str) -> list[Mapping[str, Any]]:
    return [model for model in catalog["models"] if may_use(catalog, tier, model)]


def _generous(catalog: Mapping[str, Any], probe: Probe) -> int:
    """How much a tenant's tier allows: the one with the most is asked to pay."""
    return min(catalog["tiers"][probe.tier]["requests"].values(), default=0)


def chat(model: str, **more: Any) -> Data:
    """The smallest chat that makes a model speak."""
    return {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16, **more}


_TOOL = {
    "type": "function",
    "function": {
        "name": "now",
        "description": "Tells the time of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def _square(size: int = 56) -> str:
    """A grey picture, large enough for models that cut pictures into patches of 28."""
    rows = (b"\0" + b"\x80" * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


_IMAGE = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What colour is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_square()}"}},
            ],
        }
    ]
}


def _case(group: str, name: str, path: str, expect: Data, hint: str, **more: Any) -> Data:
    return {"group": group, "name": name, "path": path, "expect": expect, "hint": hint, **more}


def _public(case: Mapping[str, Any]) -> Data:
    return {key: value for key, value in case.items() if key != "group"}


def _skipped(group: str, name: str, why: str) -> Data:
    return asdict(Row(group, name, SKIPPED, "", why))


def _strangers(catalog: Mapping[str, Any]) -> list[Data]:
    """Nobody gets in without a key, whatever else is done to the request."""
    model = next((model["served_name"] for model in catalog["models"]), "none")
    refused = {"status": [401]}
    hint = "AuthPolicy token-labs-auth; whether a listener or route has a hostname"
    wrong = {"Authorization": f"Bearer {WRONG_KEY}"}
    return [
        _case("access", "chat without a key", CHAT, {**refused, "json": {"error.code": None}}, hint, json=chat(model)),
        _case("access", "chat with a wrong key", CHAT, refused, hint, json=chat(model), headers=wrong),
        _case(
            "access",
            "chat without a key, Host in upper case",
            CHAT,
            refused,
            hint,
            json=chat(model),
            headers={"Host": FOREIGN_HOST},
        ),
        _case("access", "chat?x=1 without a key", f"{CHAT}?x=1", refused, hint, json=chat(model)),
        _case("access", "GET /v1/models without a key", MODELS, refused, "HTTPRoute models and its HTTPRouteFilter"),
    ]


def _known_keys(known: Sequence[Probe]) -> list[Data]:
    """The tenants' own keys let in those who may come in."""
    return [
        _case(
            "tenants",
            f"{probe.name}: {'key works' if probe.state == 'present' else 'suspended, key is refused'}",
            MODELS,
            # A tenant that has used up its limit has a key that works, too.
            {"status": [200, 429] if probe.state == "present" else [401]},
            f"kubectl -n kuadrant-system get secret -l tokenlabs.io/tenant={probe.name} --show-labels",
            key_file=probe.key_file,
        )
        for probe in known
    ]


def _works(probe: Probe) -> Data:
    return _case(
        "tenants",
        f"{probe.name}: a new key works",
        MODELS,
        {"status": [200]},
        "authorino's log: whether it sees new Secrets",
        key_file=probe.key_file,
        patience=NEW_KEY_PATIENCE,
    )


def _speak(catalog: Mapping[str, Any], speakers: Sequence[Probe], skipped: list[Data]) -> list[Data]:
    """What a tenant can and cannot do."""
    if not speakers:
        names = ["paths", *(model["name"] for model in catalog["models"])]
        skipped += [_skipped("models", name, "no active tenant's key file is on the controller") for name in names]
        return []
    first = max(speakers, key=lambda probe: _generous(catalog, probe))
    served = sorted(model["served_name"] for model in catalog["models"])
    example = served[0] if served else "none"
    cases = [
        _case(
            "access",
            "GET /v1/models with a key",
            MODELS,
            {"status": [200], "json": {"data.*.id": served}},
            "HTTPRouteFilter models",
            key_file=first.key_file,
            stage=1,
        ),
        _case(
            "access",
            "chat with 'bearer' in lower case",
            CHAT,
            {"status": [401]},
            "AuthPolicy token-labs-auth",
            json=chat(example),
            key_file=first.key_file,
            scheme="bearer",
            stage=1,
        ),
        _case(
            "access",
            "a path that is not listed",
            UNLISTED,
            {"status": [403, 404]},
            "AuthPolicy token-labs-auth, its rule metered-paths-only",
            json={"model": example, "input": "Say hello."},
            key_file=first.key_file,
            stage=1,
        ),
    ]
    cases += _audio(catalog, speakers, skipped)
    cases += _unknown_model(catalog, speakers)
    cases += _foreign_model(catalog, speakers)
    for turn, model in enumerate(catalog["models"]):
        allowed = [probe for probe in speakers if may_use(catalog, probe.tier, model)]
        if allowed:
            most = max(_generous(catalog, probe) for probe in allowed)
            best = [probe for probe in allowed if _generous(catalog, probe) == most]
            cases += _speak_to(model, best[turn % len(best)])
        else:
            skipped.append(_skipped("models", model["name"], "no tenant with a key file may use it"))
    return cases


def _speak_to(model: Mapping[str, Any], probe: Probe) -> list[Data]:
    hint = f"pods with llm-d.ai/model={model['label']}; deployment {model['picker']}"
    common = {"key_file": probe.key_file, "stage": 1, "timeout": 120}
    answered = {"choices.0.message": None, "model": model["served_name"]}
    counted = {"status": [200], "positive": ["usage.total_tokens"]}
    stream = chat(model["served_name"], stream=True)
    cases = [
        _case(
            "models",
            f"{model['name']}: chat",
            CHAT,
            {**counted, "json": answered},
            hint,
            json=chat(model["served_name"]),
            **common,
        ),
        _case(
            "models",
            f"{model['name']}: stream, with usage",
            CHAT,
            {**counted, "stream": True},
            hint,
            json=stream,
            **common,
        ),
    ]
    for able, name, more in (("tools", "takes tools", {"tools": [_TOOL]}), ("vision", "takes an image", _IMAGE)):
        if model.get(able):
            body = chat(model["served_name"], **more)
            cases.append(_case("models", f"{model['name']}: {name}", CHAT, counted, hint, json=body, **common))
    return cases


def _audio(catalog: Mapping[str, Any], speakers: Sequence[Probe], skipped: list[Data]) -> list[Data]:
    """Speech in both directions, for a tier that may use it; another tier is refused."""
    cases: list[Data] = []
    wav = _silence()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        + wav
        + b'\r\n--x\r\nContent-Disposition: form-data; name="language"\r\n\r\nen-US\r\n--x--\r\n'
    )
    heard: Data = {"body_base64": base64.b64encode(form).decode(), "headers": {"content-type": _FORM}}
    asked: dict[str, tuple[str, Data, Data]] = {
        SPEECH: ("speech", {"json": {"input": "Hello.", "voice": "sofia"}}, {"status": [200], "contains": "RIFF"}),
        TRANSCRIPTIONS: ("transcriptions", heard, {"status": [200], "json": {"text": None}}),
    }
    for path, (name, request, expect) in asked.items():
        if path not in catalog["services"]:
            continue
        tiers = catalog["services"][path]
        hint = "deployment magpie-tts" if path == SPEECH else "Backend and HTTPRoute riva-stt; the server it names"
        inside = [probe for probe in speakers if tiers is None or probe.tier in tiers]
        outside = [probe for probe in speakers if tiers is not None and probe.tier not in tiers]
        cases.append(_case("audio", f"{name} without a key", path, {"status": [401]}, "AuthPolicy", **request))
        if not inside:
            skipped.append(_skipped("audio", name, "no tenant with a key file may use it"))
            continue
        best = max(inside, key=lambda probe: _generous(catalog, probe))
        common = {"key_file": best.key_file, "stage": 1, "timeout": 120}
        cases.append(_case("audio", name, path, expect, hint, **request, **common))
        if path == SPEECH:
            wrong = {"json": {"input": "Hello.", "voice": "nobody"}}
            cases.append(_case("audio", "a voice of nobody", path, {"status": [400]}, hint, **wrong, **common))
        for probe in outside[:1]:
            refused = {**request, "key_file": probe.key_file, "stage": 1}
            told = f"tier {probe.tier} asks for {name}, which is not for it"
            cases.append(_case("audio", told, path, {"status": [403]}, "AuthPolicy token-labs-auth", **refused))
    return cases


def _silence(seconds: float = 0.5, rate: int = 16000) -> bytes:
    """A WAV file in which nobody speaks."""
    data = b"\0\0" * int(seconds * rate)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + form + struct.pack("<4sI", b"data", len(data)) + data
    )


def _unknown_model(catalog: Mapping[str, Any], speakers: Sequence[Probe]) -> list[Data]:
    """Twice over one connection: an error must not leave it hanging."""
    free = [probe for probe in speakers if not catalog["tiers"][probe.tier]["models"]]
    probe = max(free or speakers, key=lambda probe: _generous(catalog, probe))
    return [
        _case(
            "access",
            "a model that does not exist, twice on one connection",
            CHAT,
            {"status": [404], "json": {"error.code": "model_not_found"}} if free else {"status": [403]},
            "AIGatewayRoute llm-inference; HTTPRouteFilter ai-eg-route-not-found-response-llm-inference",
            json=chat("no/such-model"),
            key_file=probe.key_file,
            repeat=2,
            reuse=True,
            stage=1,
        )
    ]


def _other_engine(catalog: Mapping[str, Any]) -> str:
    """What to do about answers that are held back or cut by whoever counts tokens."""
    if catalog["token_limits"] == "kuadrant":
        return "TokenRateLimitPolicy token-labs-token-limits; tokenlabs_token_limits: envoy does not have this fault"
    return (
        "BackendTrafficPolicy token-labs-token-limits, envoy-ratelimit's log; tokenlabs_token_limits: kuadrant counts "
        "in another way"
    )


def _errors_of_each_tier(catalog: Mapping[str, Any], speakers: Sequence[Probe]) -> list[Data]:
    """An error of the model has no usage. Where a filter waits for it, the answer never ends.

    It waits for every tier but one, so each is asked.
    """
    cases = []
    for tier in catalog["tiers"]:
        probe = next((probe for probe in speakers if probe.tier == tier), None)
        models = _models_of(catalog, tier)
        if probe and models:
            cases.append(
                _case(
                    "models",
                    f"tier {tier}: an error of the model ends, and leaves its connection usable",
                    CHAT,
                    {"status": [400]},
                    _other_engine(catalog),
                    json=chat(models[0]["served_name"], max_tokens=-1),
                    key_file=probe.key_file,
                    repeat=2,
                    reuse=True,
                    stage=1,
                )
            )
    return cases


def _short_streams(catalog: Mapping[str, Any], probe: Probe, skipped: list[Data]) -> list[Data]:
    """Streams that come all at once arrive whole."""
    name, models = "short streams, many at once, all whole", _models_of(catalog, probe.tier)
    if not models or _generous(catalog, probe) < 2 * SHORT_STREAMS:
        why = "the tier may use no model" if not models else f"tier {probe.tier} allows too few requests"
        skipped.append(_skipped("models", name, why))
        return []
    return [
        _case(
            "models",
            name,
            CHAT,
            {"status": [200], "stream": True},
            _other_engine(catalog),
            json=chat(models[0]["served_name"], stream=True, max_tokens=1),
            key_file=probe.key_file,
            repeat=SHORT_STREAMS,
            parallel=4,
            stage=1,
            timeout=60,
        )
    ]


def _foreign_model(catalog: Mapping[str, Any], speakers: Sequence[Probe]) -> list[Data]:
    """A tier is kept to its models."""
    for probe in speakers:
        for model in catalog["models"]:
            if not may_use(catalog, probe.tier, model):
                return [
                    _case(
                        "access",
                        f"tier {probe.tier} asks for {model['name']}, which is not among its models",
                        CHAT,
                        {"status": [403]},
                        "AuthPolicy token-labs-auth, its rule model-of-the-tier",
                        json=chat(model["served_name"]),
                        key_file=probe.key_file,
                        stage=1,
                    )
                ]
    return []


def _neighbour(own: Sequence[Probe], tier: str) -> Probe:
    """The run's other tenant of a tier."""
    return next(probe for probe in own if probe.tier == tier)


def _request_limit(
    catalog: Mapping[str, Any], probe: Probe, own: Sequence[Probe], largest: int, skipped: list[Data]
) -> list[Data]:
    limit, models = _tightest(catalog, "requests")[1], _models_of(catalog, probe.tier)
    name = f"tier {probe.tier}: {limit} requests pass, one more does not"
    why = _unreachable(limit, models, largest, "request")
    if why:
        skipped.append(_skipped("limits", name, why))
        return []
    body = chat(models[0]["served_name"], max_tokens=1)
    hint = "RateLimitPolicy token-labs-request-limits; limitador's log; Redis"
    over = {"key_file": probe.key_file, "json": body, "timeout": 120}
    neighbour = {**over, "key_file": _neighbour(own, probe.tier).key_file}
    counts = {"counts": {200: limit, 429: 1}}
    return [
        _case("limits", name, CHAT, counts, hint, repeat=limit + 1, parallel=BURST, stage=2, **over),
        _case(
            "limits",
            "over the request limit, ?x=1 does not help",
            f"{CHAT}?x=1",
            {"status": [429]},
            hint,
            stage=3,
            **over,
        ),
        _case(
            "limits", "another tenant of the tier still gets in", CHAT, {"status": [200]}, hint, stage=3, **neighbour
        ),
    ]


def _token_limit(
    catalog: Mapping[str, Any], probe: Probe, own: Sequence[Probe], largest: int, skipped: list[Data]
) -> list[Data]:
    limit, models = _tightest(catalog, "tokens")[1], _models_of(catalog, probe.tier)
    requests = min(catalog["tiers"][probe.tier]["requests"].values(), default=largest)
    words = min(-(-limit // 3), LARGEST_PROMPT)
    # One more is needed to be refused; a minute may end in between, and begins with a new count.
    needed = -(-limit // max(words, 1)) + 1
    name = f"tier {probe.tier}: refused after {limit} tokens"
    why = _unreachable(needed + 1 if limit else 0, models, min(largest, requests), "token")
    if why:
        skipped.append(_skipped("limits", name, why))
        return []
    prompt = [{"role": "user", "content": "token " * words}]
    body = chat(models[0]["served_name"], messages=prompt, max_tokens=1)
    over = {"key_file": probe.key_file, "json": body, "timeout": 120}
    small = {"key_file": _neighbour(own, probe.tier).key_file, "json": chat(models[0]["served_name"], max_tokens=1)}
    kind = "BackendTrafficPolicy" if catalog["token_limits"] == "envoy" else "TokenRateLimitPolicy"
    hint = (
        f"{kind} token-labs-token-limits; llmRequestCosts of AIGatewayRoute llm-inference; envoy-ratelimit's log; Redis"
    )
    expect = {"status": [429], "tokens": limit}
    repeat = min(2 * needed, requests, largest)
    return [
        _case("limits", name, CHAT, expect, hint, repeat=repeat, until=429, stage=2, **over),
        _case(
            "limits",
            "tokens of another tenant are its own",
            CHAT,
            {"status": [200]},
            hint,
            stage=3,
            timeout=120,
            **small,
        ),
    ]


def _unreachable(requests: int, models: Sequence[Any], largest: int, what: str) -> str:
    if not models:
        return "the tier may use no model"
    if requests < 1:
        return f"there is no {what} limit"
    if requests > largest:
        return f"it would take {requests} requests, more than the {largest} that may be sent"
    return ""


def _suspended(probe: Probe) -> Data:
    return _case(
        "tenants",
        f"{probe.name}: suspended, the key is refused at once",
        MODELS,
        {"status": [401]},
        "AuthPolicy token-labs-auth: whether its selector has tokenlabs.io/state",
        key_file=probe.key_file,
        patience=SUSPENSION_PATIENCE,
    )


def request_rows(planned: Mapping[str, Any], answer: Mapping[str, Any]) -> list[Data]:
    """Rows for the requests, from what gateway_probe returned; without an answer all of them have failed."""
    results = answer.get("cases") or []
    known = {result["name"]: result for result in results}
    rows = []
    for case in [*planned["cases"], *planned["later"]]:
        result = known.get(case["name"])
        if result is None:
            continue
        got = result["reason"] if not result["ok"] else result["got"]
        row = Row(
            planned["groups"][case["name"]],
            case["name"],
            OK if result["ok"] else FAILED,
            result["expected"],
            got,
            result["hint"],
        )
        rows.append(asdict(row))
    if not results:
        why = str(answer.get("msg") or "the requests were not sent")
        rows.append(
            asdict(Row("access", "the gateway can be asked", FAILED, "an answer", why, "the Gateway's address"))
        )
    return rows


def report(findings: Mapping[str, Any]) -> list[Data]:
    """All rows, from what the role's tasks have found."""
    planned = findings["plan"]
    return [
        *object_rows(findings["checks"], findings["objects"]),
        foreign_filters(findings["catalog"], findings["filters"]),
        *tenant_rows(findings["drift"], findings["made"], findings["gone"]),
        *request_rows(planned, {**findings["answer"], "cases": findings["cases"]}),
        *planned["skipped"],
    ]
