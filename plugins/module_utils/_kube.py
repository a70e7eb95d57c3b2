# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small client of the Kubernetes API for the modules of this collection.

This module util is private to the collection: it may change in any way at any time.

Authentication, TLS and proxies are those of kubernetes.core (same options, same environment variables). Requests are
raw JSON: no typed models, no discovery of groups that nobody asked for, retries for every method, errors in the
server's own words.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
    from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
except ImportError:
    AUTH_ARG_SPEC = {}
    AnsibleK8SModule = None

try:
    import kubernetes
    import urllib3

    LIBRARIES = True
except ImportError:
    LIBRARIES = False

T = TypeVar("T")
R = TypeVar("R")

MANAGER = "tokenlabs"
WORKERS = 8
PAGE = 500
TIMEOUT = 60.0
CONNECT_PATIENCE = 20.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
UNREACHABLE = 0
# What the API server writes at the beginning of a list: where it goes on, before the items themselves.
_CONTINUE = re.compile(rb'\{(?:"kind":"\w+","apiVersion":"[\w./]+",)?"metadata":\{[^{}\[\]]*?"continue":"([^"\\]+)"')


class KubeError(Exception):
    """A request that the API server refused, or did not answer (status 0)."""

    def __init__(self, status: int, reason: str, message: str, target: str = "", details: dict[str, Any] | None = None):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.target = target
        self.details = details or {}

    def __str__(self) -> str:
        code = f"{self.status} {self.reason}".strip() if self.status else self.reason
        return ": ".join(part for part in (self.target, code, self.message) if part)

    def about(self, target: str) -> KubeError:
        """The same error, named after the object it is about."""
        return KubeError(self.status, self.reason, self.message, target, self.details)

    @property
    def definite(self) -> bool:
        """Whether the server certainly did not do what was asked."""
        return 400 <= self.status < 500


class UnknownKind(KubeError):
    """The API server does not serve this kind: its CRD is not installed (yet)."""

    def __init__(self, api_version: str, kind: str):
        super().__init__(404, "UnknownKind", f"the cluster serves no {kind} in {api_version}; is its CRD installed?")


@dataclass(frozen=True)
class Resource:
    """Where the objects of one kind live."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool
    verbs: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        return f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The URL path of an object, of a namespace's collection or (without both) of all objects."""
        parts = [self.root]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        elif self.namespaced and name:
            raise ValueError(f"{self.kind} {name} needs a namespace")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=":"))
        return "/".join(parts)


def group_path(api_version: str) -> str:
    return f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"


def title(kind: str, namespace: str | None, name: str) -> str:
    """How people and results name an object: Kind/namespace/name, or Kind/name."""
    return "/".join(part for part in (kind, namespace, name) if part)


class Kube:
    """Requests to one API server; safe to share between threads."""

    def __init__(
        self,
        pool: Any,
        base: str,
        headers: Callable[[], Iterable[tuple[str, str]]],
        *,
        retries: Any = None,
        workers: int = WORKERS,
        timeout: float = TIMEOUT,
    ):
        self._base = base.rstrip("/")
        # Looked up once: to find the connections for a URL takes as long as to send a request.
        self._connections = pool.connection_from_url(self._base)
        server = urlsplit(self._base)
        # A proxy for plain HTTP is told the whole URL.
        self._root = self._base if pool.proxy and server.scheme == "http" else server.path
        self._headers = headers
        self._retries = retries
        self._timeout = timeout
        self._resources: dict[str, dict[str, Resource]] = {}
        self._lock = threading.Lock()
        self.workers = workers
        self.requests = 0
        self.warnings: list[str] = []

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request; raise KubeError unless the answer is a success."""
        return self.exchange(method, path, query=query, body=body, content_type=content_type)[1]

    def exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> tuple[int, dict[str, Any]]:
        """As request, with the status (201 tells a creation from an update)."""
        response = self._send(method, path, query, body, content_type)
        return response.status, _decode(response, path)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        url = self._root + path
        if query:
            url += "?" + urlencode({key: value for key, value in query.items() if value is not None})
        headers = urllib3.HTTPHeaderDict()
        for key, value in self._headers():
            headers.add(key, value)
        headers["Accept"] = "application/json"
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = json.dumps(body, separators=(",", ":")).encode()
        with self._lock:
            self.requests += 1
        try:
            response = self._connections.request(
                method, url, body=data, headers=headers, retries=self._retries, redirect=False, timeout=self._timeout
            )
        except urllib3.exceptions.HTTPError as error:
            raise KubeError(UNREACHABLE, "Unreachable", f"{self._base}: {_root_cause(error)}", path) from error
        self._remember_warnings(response.headers)
        return response

    def _remember_warnings(self, headers: Any) -> None:
        for header in headers.getlist("Warning") if hasattr(headers, "getlist") else []:
            # 299 - "text"
            text = header.split('"')[1] if header.count('"') >= 2 else header
            with self._lock:
                if text not in self.warnings:
                    self.warnings.append(text)

    def get(self, path: str) -> dict[str, Any] | None:
        """The object, or None where there is none."""
        try:
            return self.request("GET", path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self,
        path: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        each: Callable[[dict[str, Any]], Any] | None = None,
    ) -> list[Any]:
        """All objects of a collection, page by page; `each` reduces every item as it arrives, to save memory."""
        query = {"limit": PAGE, "labelSelector": label_selector, "fieldSelector": field_selector}
        for last_try in (False, False, True):
            items: list[Any] = []
            try:
                for page in self._pages(path, query):
                    found = page.get("items") or []
                    items.extend(map(each, found) if each else found)
                return items
            except KubeError as error:
                # The snapshot behind the token was compacted away: only a list from the start is consistent.
                if error.status != 410 or last_try:
                    raise
        raise AssertionError("unreachable")

    def _pages(self, path: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Page after page. While one is read here, the server is at work on the next."""
        with ThreadPoolExecutor(max_workers=1) as ahead:
            response = self._send("GET", path, query)
            while True:
                early = _CONTINUE.match(response.data) if response.status < 400 else None
                expected = early[1].decode() if early else ""
                following = ahead.submit(self._send, "GET", path, {**query, "continue": expected}) if expected else None
                page = _decode(response, path)
                yield page
                token = (page.get("metadata") or {}).get("continue")
                if not token:
                    return
                if following and token == expected:
                    response = following.result()
                else:
                    response = self._send("GET", path, {**query, "continue": token})

    def apply(
        self, path: str, body: dict[str, Any], manager: str = MANAGER, force: bool = True, dry_run: bool = False
    ) -> dict[str, Any]:
        """Server-side apply. Unknown fields are an error, never dropped in silence."""
        return self.apply_status(path, body, manager, force, dry_run)[1]

    def apply_status(
        self, path: str, body: dict[str, Any], manager: str = MANAGER, force: bool = True, dry_run: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """As apply, with the status: 201 for an object that was not there before."""
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return self.exchange("PATCH", path, query=query, body=body, content_type=APPLY)

    def patch(self, path: str, body: dict[str, Any], manager: str = MANAGER) -> dict[str, Any]:
        """Merge into an object; a null removes, and with a resourceVersion it is 409 when the object has changed."""
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        return self.request("PATCH", path, query=query, body=body, content_type=MERGE)

    def create(self, path: str, body: dict[str, Any], manager: str = MANAGER, dry_run: bool = False) -> dict[str, Any]:
        """Create in a collection; 409 when the object is there already."""
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return self.request("POST", path, query=query, body=body)

    def delete(
        self,
        path: str,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str = "Background",
        dry_run: bool = False,
    ) -> dict[str, Any] | None:
        """Delete an object, if it still is the one that was seen; None where there is none."""
        preconditions = {key: value for key, value in (("uid", uid), ("resourceVersion", resource_version)) if value}
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if preconditions:
            options["preconditions"] = preconditions
        if dry_run:
            # In the body: beside one, the server does not look at the query of a DELETE.
            options["dryRun"] = ["All"]
        try:
            return self.request("DELETE", path, body=options)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    def resource(self, api_version: str, kind: str) -> Resource:
        """Where objects of this kind live; UnknownKind when the server does not serve it."""
        with self._lock:
            known = self._resources.get(api_version)
        if known is None:
            listing = self.get(group_path(api_version)) or {}
            known = {
                entry["kind"]: Resource(
                    api_version, entry["kind"], entry["name"], entry["namespaced"], tuple(entry.get("verbs") or ())
                )
                for entry in listing.get("resources") or []
                if "/" not in entry["name"]
            }
            if known:
                with self._lock:
                    self._resources[api_version] = known
        if kind not in known:
            self.forget(api_version)
            raise UnknownKind(api_version, kind)
        return known[kind]

    def forget(self, api_version: str) -> None:
        """Look this API version up again the next time: a CRD was added or removed."""
        with self._lock:
            self._resources.pop(api_version, None)


def _root_cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return str(reason if reason is not None else error)


def _decode(response: Any, path: str) -> dict[str, Any]:
    try:
        answer = json.loads(response.data) if response.data else {}
    except ValueError:
        answer = {}
        if response.status < 400:
            raise KubeError(UNREACHABLE, "NotKubernetes", "the answer is not JSON", path) from None
    if response.status < 400:
        return answer
    message = answer.get("message") if isinstance(answer, dict) else None
    reason = answer.get("reason") if isinstance(answer, dict) else None
    text = message or response.data[:300].decode("utf-8", "replace").strip()
    raise KubeError(
        response.status,
        reason or response.reason or "",
        text,
        path,
        (answer.get("details") or {}) if isinstance(answer, dict) else {},
    )


@dataclass
class Outcome(Generic[T, R]):
    """What became of one item of a batch."""

    item: T
    result: R | None = None
    error: KubeError | None = None
    tried: bool = field(default=True)


def in_parallel(
    work: Callable[[T], R],
    items: Sequence[T],
    workers: int = WORKERS,
    fatal: Callable[[KubeError], bool] = lambda error: error.status in (UNREACHABLE, 401),
    stop: threading.Event | None = None,
) -> list[Outcome[T, R]]:
    """Do the work on every item with a few threads; outcomes come in the order of the items.

    One failure does not stop the others, except a fatal one (by default: no connection, no login), after which the
    items not yet begun are given back untried. `stop` is set then, and so is shared by batches of one work.
    """
    stop = stop or threading.Event()

    def one(item: T) -> Outcome[T, R]:
        if stop.is_set():
            return Outcome(item, tried=False)
        try:
            return Outcome(item, result=work(item))
        except KubeError as error:
            if fatal(error):
                stop.set()
            return Outcome(item, error=error)

    if len(items) <= 1 or workers <= 1:
        return [one(item) for item in items]
    outcomes: list[Outcome[T, R]] = [Outcome(item, tried=False) for item in items]
    positions = iter(range(len(items)))

    def some() -> None:
        # Whoever is free takes the next: to hand every item to a thread takes as long as to send a request.
        for position in positions:
            outcomes[position] = one(items[position])

    with ThreadPoolExecutor(max_workers=min(workers, len(items))) as pool:
        try:
            for thread in [pool.submit(some) for _thread in range(min(workers, len(items)))]:
                thread.result()
        except BaseException:
            stop.set()
            raise
    return outcomes


def kube_module(argument_spec: dict[str, Any], **kwargs: Any) -> Any:
    """The module object: kubernetes.core's, with its login options beside ours.

    Without kubernetes.core or the client library the module fails with the usual sentence on how to get them.
    """
    spec = {**copy.deepcopy(AUTH_ARG_SPEC), **argument_spec}
    if AnsibleK8SModule is None:
        module = AnsibleModule(argument_spec=spec, **kwargs)
        module.fail_json(msg=missing_required_lib("the collection kubernetes.core"))
    return AnsibleK8SModule(module_class=AnsibleModule, argument_spec=spec, **kwargs)


def connect(module: Any, workers: int = WORKERS) -> Kube:
    """Log in as kubernetes.core does, and give a client with our retries and a connection for each worker."""
    core = _log_in(module)
    configuration = core.configuration
    configuration.connection_pool_maxsize = workers
    configuration.retries = retry_policy()
    client = kubernetes.client.ApiClient(configuration)
    login = core.client.client

    def headers() -> list[tuple[str, str]]:
        # Asked for every request: a hook may have refreshed the token.
        found = [(str(key), str(value)) for key, value in login.default_headers.items()]
        for setting in configuration.auth_settings().values():
            if setting.get("in") == "header" and setting.get("value"):
                found.append((setting["key"], setting["value"]))
        return found

    return Kube(
        client.rest_client.pool_manager, configuration.host, headers, retries=configuration.retries, workers=workers
    )


def retry_policy(attempts: int = 8, longest: float = 30.0) -> Any:
    """Repeat what the server put off (429, 503) or could not take (no connection), whatever the method.

    All our writes may be repeated: they are server-side applies, deletions with preconditions, and creations by name.
    """

    class Policy(urllib3.Retry):
        def get_retry_after(self, response: Any) -> float | None:
            wanted = super().get_retry_after(response)
            return None if wanted is None else min(wanted, longest)

    return Policy(
        total=attempts,
        backoff_factor=0.3,
        backoff_max=5.0,
        status_forcelist=(429, 503),
        allowed_methods=None,
        raise_on_status=False,
    )


def _log_in(module: Any) -> Any:
    """kubernetes.core's client; it looks at the server once, so a server that is just restarting is given a moment."""
    if not LIBRARIES:
        module.fail_json(msg=missing_required_lib("kubernetes"))
    deadline = time.monotonic() + CONNECT_PATIENCE
    while True:
        try:
            return get_api_client(module)
        except CoreException as error:
            raise KubeError(UNREACHABLE, "NoLogin", str(error)) from error
        except kubernetes.client.exceptions.ApiException as error:
            if error.status not in (429, 503) or time.monotonic() > deadline:
                raise KubeError(
                    error.status or UNREACHABLE, str(error.reason), "while looking at the API server"
                ) from error
        except urllib3.exceptions.HTTPError as error:
            if time.monotonic() > deadline:
                raise KubeError(UNREACHABLE, "Unreachable", _root_cause(error)) from error
        except (OSError, ValueError) as error:
            raise KubeError(UNREACHABLE, "NoLogin", str(error)) from error
        time.sleep(1)
