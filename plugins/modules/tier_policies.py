#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tier_policies
short_description: Apply the tiers as policies of the gateway
description:
  - Renders the tiers as one AuthPolicy, one RateLimitPolicy, the token limits (a BackendTrafficPolicy of Envoy Gateway
    or a TokenRateLimitPolicy of Kuadrant) and one TelemetryPolicy, and applies what differs from the cluster.
  - Refuses what would open a hole, before anything is written. That is a tier without limits, a path that is a pattern,
    a listener or route with a host name, a second policy for the same Gateway or route, and the removal of a tier that
    tenants use.
  - Takes out of its policies what others have written into them.
  - Sends no write request when nothing differs.
  - With O(state=absent) it removes the policies, but never before the routes that they close.
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - tokenlabs.platform.attributes
  - tokenlabs.platform.attributes.kubernetes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - Whether the policies shall be there. They are not removed while the Gateway has routes; in check mode that is
        a warning.
    type: str
    choices: [present, absent]
    default: present
  tiers:
    description:
      - The tiers by name, each with C(requests) and C(tokens) (limits by window) and C(models) (a list of names, or
        none for all models). Required when O(state=present), as are O(paths) and O(models).
    type: dict
  paths:
    description: The paths that are open to tenants. All others are refused.
    type: list
    elements: str
  services:
    description:
      - Open paths that are no model's, such as speech, each with the list of tiers that it is for, or nothing for all.
      - Requests to them are limited like all others; they have no tokens to count.
    type: dict
    default: {}
  models:
    description: The models, each with C(name) and C(served_name).
    type: list
    elements: dict
  gateway:
    description: The Gateway that the policies are for.
    type: str
    default: token-labs-gateway
  namespace:
    description: The namespace of the Gateway and of the policies.
    type: str
    default: token-labs
  tenants_namespace:
    description: The namespace of the tenants' Secrets.
    type: str
    default: kuadrant-system
  token_limits:
    description:
      - Who counts tokens. The policy of the other way is removed, as both on one route would lose counts.
    type: str
    choices: [envoy, kuadrant]
    default: envoy
  oidc:
    description:
      - An issuer of tokens (OpenID Connect) that are taken beside the keys, and which of their claims name tier and
        tenant. The tier must be one of O(tiers).
    type: dict
    suboptions:
      issuer:
        description: The address of the issuer, as in the claim C(iss) of its tokens. Authorino must reach it.
        type: str
        required: true
      tier_claim:
        description: The claim with the tier. Nobody must be able to change it for himself.
        type: str
        required: true
      tenant_claim:
        description: The claim with the tenant, for whom is counted.
        type: str
        required: true
  nudge:
    description:
      - Make Kuadrant look at the AuthPolicy again, by a change that has no effect and its reversal.
      - Helps where it was applied while Authorino was starting and is enforced, but does not say so.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Apply the tiers
  tokenlabs.platform.tier_policies:
    tiers: "{{ tokenlabs_catalog.tiers }}"
    paths: "{{ tokenlabs_catalog.paths }}"
    models: "{{ tokenlabs_catalog.models }}"
    token_limits: "{{ tokenlabs_catalog.token_limits }}"
"""

RETURN = r"""
changed_objects:
  description: The policies that were created, updated or deleted, as kind, namespace and name.
  type: list
  elements: str
  returned: always
  sample: ["AuthPolicy/token-labs/token-labs-auth"]
counts:
  description: How many policies were treated in which way.
  type: dict
  returned: always
  sample: {created: 0, updated: 1, deleted: 0, unchanged: 3}
objects:
  description: The policies that there are now, each with C(api_version), C(kind), C(name) and C(namespace).
  type: list
  elements: dict
  returned: always
removed_tiers:
  description: Tiers that were known to the cluster and are no longer.
  type: list
  elements: str
  returned: always
"""

from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._apply import (
    UPDATE,
    Applier,
    Change,
    Mask,
    Report,
    describe,
    prepare,
    title,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    Kube,
    KubeError,
    UnknownKind,
    connect,
    kube_module,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._policies import (
    ENVOY_GATEWAY,
    KUADRANT,
    MANAGER,
    REQUEST_LIMITS,
    TENANT_SELECTOR,
    TOKEN_POLICY_VERSION,
    PolicyError,
    Spec,
    all_policies,
    holes,
    in_use,
    meddled,
    nudged,
    other_token_limits,
    removed_tiers,
    render,
    still_open,
    tenant_and_tier,
)

GATEWAY_VERSION = "gateway.networking.k8s.io/v1"

ARGUMENTS: dict[str, Any] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "tiers": {"type": "dict"},
    "paths": {"type": "list", "elements": "str"},
    "services": {"type": "dict", "default": {}},
    "models": {"type": "list", "elements": "dict"},
    "gateway": {"type": "str", "default": "token-labs-gateway"},
    "namespace": {"type": "str", "default": "token-labs"},
    "tenants_namespace": {"type": "str", "default": "kuadrant-system"},
    # No secret: a way of counting.
    "token_limits": {"type": "str", "choices": ["envoy", "kuadrant"], "default": "envoy", "no_log": False},
    "oidc": {
        "type": "dict",
        "options": {key: {"type": "str", "required": True} for key in ("issuer", "tier_claim", "tenant_claim")},
    },
    "nudge": {"type": "bool", "default": False},
}


def found(kube: Kube, api_version: str, kind: str, namespace: str) -> list[dict[str, Any]]:
    """All objects of a kind in a namespace; none where the kind is not installed (yet)."""
    try:
        path = kube.resource(api_version, kind).path(namespace)
    except UnknownKind:
        return []
    return [{"kind": kind, **item} for item in kube.list(path)]


def gateway_and_routes(kube: Kube, spec: Spec) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    gateways = found(kube, GATEWAY_VERSION, "Gateway", spec.namespace)
    named = (item for item in gateways if item["metadata"]["name"] == spec.gateway)
    return next(named, None), found(kube, GATEWAY_VERSION, "HTTPRoute", spec.namespace)


Live = dict[tuple[str, str], dict[str, Any]]


def guard(kube: Kube, spec: Spec, tenants_namespace: str) -> tuple[list[str], Live]:
    """Look at the cluster for what would open a hole; the tiers that go, and the policies that are there."""
    namespace = spec.namespace
    gateway, routes = gateway_and_routes(kube, spec)
    policies = [
        *found(kube, KUADRANT, "RateLimitPolicy", namespace),
        *found(kube, KUADRANT, "AuthPolicy", namespace),
        *found(kube, TOKEN_POLICY_VERSION, "TokenRateLimitPolicy", namespace),
        *found(kube, ENVOY_GATEWAY, "BackendTrafficPolicy", namespace),
    ]
    live = {(item["kind"], item["metadata"]["name"]): item for item in policies}
    reasons = holes(spec, gateway, routes, found(kube, ENVOY_GATEWAY, "EnvoyExtensionPolicy", namespace), policies)
    removed = removed_tiers(live.get(("RateLimitPolicy", REQUEST_LIMITS)), spec)
    if removed:
        # Tenants are many: they are looked at only when it matters, and nothing of them is kept but the two names.
        secrets = kube.resource("v1", "Secret").path(tenants_namespace)
        reasons += in_use(removed, kube.list(secrets, TENANT_SELECTOR, each=tenant_and_tier))
    if reasons:
        raise PolicyError(reasons)
    return removed, live


def cleansed(kube: Kube, policies: list[dict[str, Any]], live: Live, check: bool) -> Report:
    """Take out of our policies what others have written into them, at once with the rest, so that nothing is open."""
    report = Report()
    for policy in policies:
        there = live.get((policy["kind"], policy["metadata"]["name"]))
        foreign = meddled(policy, there) if there else []
        if there is None or not foreign:
            continue
        metadata = policy["metadata"]
        path = kube.resource(policy["apiVersion"], policy["kind"]).path(metadata["namespace"], metadata["name"])
        steps = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": there["metadata"]["resourceVersion"]},
            {"op": "replace", "path": "/spec", "value": policy["spec"]},
        ]
        if not check:
            kube.request(
                "PATCH", path, query={"fieldManager": MANAGER}, body=steps, content_type="application/json-patch+json"
            )
        reason = f"others have written into it ({', '.join(foreign)})"
        report.changes.append(
            Change(title(policy["kind"], metadata["namespace"], metadata["name"]), UPDATE, reason=reason)
        )
        report.warnings.append(f"{policy['kind']} {metadata['name']} is made ours again: {reason}")
    return report


def bring(kube: Kube, spec: Spec, live: Live, check: bool, nudge: bool) -> list[Report]:
    """Apply the policies, then remove those that must not be beside them."""
    policies = prepare(render(spec))
    reports = [cleansed(kube, policies, live, check)]
    if nudge and not check:
        reports.append(Applier(kube, check=check).present(prepare([nudged(policy) for policy in policies])))
    reports.append(Applier(kube, check=check).present(policies))
    if not reports[-1].failures:
        reports.append(Applier(kube, check=check).absent([other_token_limits(spec)]))
    return reports


def remove(kube: Kube, spec: Spec, check: bool) -> list[Report]:
    reasons = still_open(spec, *gateway_and_routes(kube, spec))
    if reasons and not check:
        raise PolicyError(reasons)
    report = Applier(kube, check=check).absent(all_policies(spec))
    # In a rehearsal the tasks before this one have not removed what they will.
    report.warnings += reasons
    return [report]


def main() -> None:
    module = kube_module(
        argument_spec=ARGUMENTS,
        required_if=[("state", "present", ("tiers", "paths", "models"))],
        supports_check_mode=True,
    )
    params = module.params
    spec = Spec(
        tiers=params["tiers"] or {},
        paths=params["paths"] or [],
        models={str(model.get("name")): str(model.get("served_name")) for model in params["models"] or []},
        gateway=params["gateway"],
        namespace=params["namespace"],
        token_limits=params["token_limits"],
        oidc=params["oidc"],
        services=params["services"],
    )
    policies: list[dict[str, Any]] = []
    removed: list[str] = []
    try:
        if params["state"] == "present":
            policies = render(spec)
            kube = connect(module)
            removed, live = guard(kube, spec, params["tenants_namespace"])
            reports = bring(kube, spec, live, module.check_mode, params["nudge"])
        else:
            kube = connect(module)
            reports = remove(kube, spec, module.check_mode)
    except PolicyError as error:
        module.fail_json(msg="\n".join(["Refused, nothing was changed:", *(f"- {reason}" for reason in error.reasons)]))
    except KubeError as error:
        module.fail_json(msg=str(error))
    for warning in dict.fromkeys([*kube.warnings, *(text for report in reports for text in report.warnings)]):
        module.warn(warning)
    changes = [change for report in reports for change in report.changed]
    mask = Mask()
    result: dict[str, Any] = {
        "changed": bool(changes),
        "changed_objects": list(dict.fromkeys(change.title for change in changes)),
        "counts": {verb: sum(report.counts()[verb] for report in reports) for verb in reports[0].counts()},
        "objects": [
            {
                "api_version": policy["apiVersion"],
                "kind": policy["kind"],
                "name": policy["metadata"]["name"],
                "namespace": spec.namespace,
            }
            for policy in policies
        ],
        "removed_tiers": removed,
    }
    if module._diff:
        result["diff"] = [describe(change, mask) for change in changes]
    failures = next((report for report in reports if report.failures), None)
    if failures:
        module.fail_json(msg=failures.failure_message(), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
