# SPDX-License-Identifier: GPL-3.0-or-later
"""The compiled configuration: what the answers depend on, in the shape in which a request needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .expressions import Expression
from .objects import Name


@dataclass(frozen=True, slots=True)
class RequestView:
    """The parts of a request that routes match on. Header names are in lower case."""

    method: str
    host: str
    path: str  # normalised, without the query
    query: str
    headers: Mapping[str, str]

    @property
    def full_path(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


class PathType(Enum):
    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


@dataclass(frozen=True)
class ValueMatch:
    """A header or query match."""

    name: str
    value: str
    regex: re.Pattern[str] | None = None

    def matches(self, actual: str | None) -> bool:
        if actual is None:
            return False
        return self.regex.fullmatch(actual) is not None if self.regex else actual == self.value


@dataclass(frozen=True)
class Match:
    path_type: PathType = PathType.PREFIX
    path: str = "/"
    regex: re.Pattern[str] | None = None
    method: str | None = None
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()


@dataclass(frozen=True)
class HeaderChanges:
    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class UrlRewrite:
    hostname: str | None = None
    full_path: str | None = None
    prefix: str | None = None


@dataclass(frozen=True)
class DirectResponse:
    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cors:
    """Which pages may send requests, and what their browsers are told before they do."""

    origins: tuple[re.Pattern[str], ...]
    preflight: tuple[tuple[str, str], ...]
    exposed: str = ""


@dataclass(frozen=True)
class Override:
    """An answer that is made anew when it has one of these statuses."""

    statuses: tuple[tuple[int, int], ...]
    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: str


class Target(Enum):
    SERVICE = "Service"
    POOL = "InferencePool"
    BACKEND = "Backend"
    BROKEN = "broken"


@dataclass(frozen=True)
class Address:
    host: str
    port: int


@dataclass(frozen=True)
class BackendRef:
    """Where a rule sends a request. ``addresses`` are the ready ones at the time of the snapshot."""

    kind: Target
    name: Name
    weight: int = 1
    addresses: tuple[Address, ...] = ()
    tls_host: str | None = None
    picker_ready: bool = True
    fail_open: bool = False


@dataclass(frozen=True)
class CostFormula:
    kind: str
    expression: Expression | None = None


@dataclass(frozen=True)
class AiRoute:
    """What the AI gateway's filter knows of the route that it is enabled on."""

    name: Name
    costs: Mapping[str, CostFormula]


# --- Kuadrant: authentication and authorisation ---------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """One condition of a policy; ``every`` and ``some`` are nested ones."""

    predicate: Expression | None = None
    selector: str | None = None
    operator: str = ""
    value: str = ""
    every: tuple[Pattern, ...] | None = None
    some: tuple[Pattern, ...] | None = None
    invalid: bool = False


@dataclass(frozen=True)
class ValueSource:
    value: Any = None
    has_value: bool = False
    expression: Expression | None = None
    selector: str | None = None


@dataclass(frozen=True)
class Credentials:
    place: str = "header"  # header, custom_header, query, cookie
    key: str = "Bearer"


@dataclass(frozen=True)
class Identity:
    name: str
    kind: str  # api_key, jwt, anonymous, unsupported
    credentials: Credentials = Credentials()
    selector: Mapping[str, Any] = field(default_factory=dict)
    all_namespaces: bool = False
    when: tuple[Pattern, ...] = ()
    defaults: tuple[tuple[str, ValueSource], ...] = ()
    overrides: tuple[tuple[str, ValueSource], ...] = ()
    priority: int = 0
    issuer: str = ""


@dataclass(frozen=True)
class Authorization:
    name: str
    patterns: tuple[Pattern, ...]
    supported: bool = True
    when: tuple[Pattern, ...] = ()
    priority: int = 0


@dataclass(frozen=True)
class Success:
    """A header or a piece of metadata that a successful check adds."""

    name: str
    plain: ValueSource | None = None
    properties: tuple[tuple[str, ValueSource], ...] | None = None
    when: tuple[Pattern, ...] = ()


@dataclass(frozen=True)
class Denial:
    code: int
    headers: tuple[tuple[str, ValueSource], ...] = ()
    body: ValueSource | None = None
    message: ValueSource | None = None


@dataclass(frozen=True)
class AuthRules:
    """An effective AuthPolicy. ``key`` names its AuthConfig, ``signature`` changes with its content."""

    key: str
    signature: str
    identities: tuple[Identity, ...]
    authorizations: tuple[Authorization, ...]
    headers: tuple[Success, ...]
    metadata: tuple[Success, ...]
    unauthenticated: Denial
    unauthorized: Denial
    when: tuple[Pattern, ...] = ()


# --- Kuadrant: limits -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    limit: int
    seconds: int


@dataclass(frozen=True)
class Limit:
    """A named limit: it counts when all predicates hold, in one counter per value of its variables."""

    policy: str
    name: str
    rates: tuple[Rate, ...]
    when: tuple[Expression, ...]
    counters: tuple[Expression, ...]


@dataclass(frozen=True)
class LimitSet:
    """All limits of an effective policy on one HTTPRoute."""

    namespace: str
    limits: tuple[Limit, ...]
    needs_auth: bool


@dataclass(frozen=True)
class ActionSet:
    """What the wasm filter does for one match of one route, and how it finds it."""

    hosts: tuple[str, ...]
    match: Match
    auth: AuthRules | None
    requests: LimitSet | None
    tokens: LimitSet | None


# --- Envoy Gateway: global limits -----------------------------------------------------------------


@dataclass(frozen=True)
class HeaderSelector:
    name: str
    kind: str  # Exact, RegularExpression, Distinct
    value: str = ""
    regex: re.Pattern[str] | None = None
    invert: bool = False


@dataclass(frozen=True)
class GlobalRule:
    """One rule of a BackendTrafficPolicy: which requests it counts, at what cost, and under which key."""

    descriptor: str
    headers: tuple[HeaderSelector, ...]
    methods: tuple[str, ...]
    path: Match | None
    source: str | None
    source_distinct: bool
    limit: int
    unit: str
    request_cost: int
    response_key: str | None = None  # the metadata key; a plain number is response_number
    response_number: int | None = None
    shadow: bool = False  # counted, never enforced


@dataclass(frozen=True)
class GlobalLimits:
    domain: str
    rules: tuple[GlobalRule, ...]


@dataclass(frozen=True)
class RateLimitService:
    """Envoy Gateway's rate limit service, from its configuration document."""

    redis: Address | None
    redis_host: str
    password: str
    timeout: float
    fail_closed: bool
    available: bool
    tls: bool = False


# --- Routes and listeners -------------------------------------------------------------------------


@dataclass(frozen=True)
class RouteEntry:
    """One match of one rule of one HTTPRoute, as Envoy's route table holds it."""

    route: Name
    rule: int
    index: int
    match: Match
    backends: tuple[BackendRef, ...]
    timeout: float
    ai: AiRoute | None = None
    direct: DirectResponse | None = None
    redirect: Mapping[str, Any] | None = None
    rewrite: UrlRewrite = UrlRewrite()
    request_headers: HeaderChanges = HeaderChanges()
    response_headers: HeaderChanges = HeaderChanges()
    credential: tuple[str, str, bool] | None = None
    limits: GlobalLimits | None = None
    wasm: bool = True
    cors: Cors | None = None
    overrides: tuple[Override, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.route[0]}/{self.route[1]}/{self.rule}/{self.index}"


@dataclass(frozen=True)
class VirtualHosts:
    """The route table of one port: hosts in lower case, each with its entries in the order of precedence."""

    exact: Mapping[str, tuple[RouteEntry, ...]] = field(default_factory=dict)
    wildcard: tuple[tuple[str, tuple[RouteEntry, ...]], ...] = ()
    default: tuple[RouteEntry, ...] | None = None


@dataclass(frozen=True)
class ClientSettings:
    buffer_limit: int = 32768
    merge_slashes: bool = True
    escaped_slashes: str = "UnescapeAndRedirect"
    rate_limit_headers: bool = True


@dataclass(frozen=True)
class WasmFilter:
    """Kuadrant's filter on a Gateway, and which of the clusters it calls are really there."""

    present: bool = False
    auth_cluster: bool = False
    limit_cluster: bool = False
    # Action sets by the host that Kuadrant wrote down, compared with the case that the client sends.
    index: Mapping[str, tuple[ActionSet, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class PortConfig:
    """Everything behind one address and port."""

    gateway: Name
    address: str
    port: int
    hosts: VirtualHosts
    client: ClientSettings
    wasm: WasmFilter
    models: tuple[Mapping[str, Any], ...] = ()
    certificate: tuple[bytes, bytes] | None = None
    tls: bool = False


@dataclass(frozen=True)
class Storage:
    """Where Limitador keeps its counters."""

    kind: str = "memory"  # memory, redis
    url: str = ""
    address: Address | None = None
    generation: frozenset[str] = frozenset()


@dataclass(frozen=True)
class KuadrantState:
    authorino_available: bool = False
    authorino_namespace: str = ""
    authorino_pods: frozenset[str] = frozenset()
    limitador_available: bool = False
    limitador_headers: bool = False
    # What the operator has the filter do while Limitador does not answer, for requests and for tokens.
    requests_closed: bool = False
    tokens_closed: bool = False
    storage: Storage = Storage()


@dataclass(frozen=True)
class Config:
    ports: Mapping[tuple[str, int], PortConfig] = field(default_factory=dict)
    kuadrant: KuadrantState = KuadrantState()
    rate_limit: RateLimitService | None = None
    auth_rules: tuple[AuthRules, ...] = ()
    # Objects outside the watched kinds that this configuration needs to know.
    secrets: frozenset[Name] = frozenset()
