#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: usage_info
short_description: Requests, tokens and cost for each tenant, tier and model
description:
  - Asks Prometheus how many requests each tenant has sent to each model in a period, and how many tokens went in and
    out, and adds what that costs.
  - Also tells what is left of each tenant's limits now, of requests by Limitador's own counters, of tokens by
    Prometheus.
  - Counters that begin anew are seen through. What a counter had before Prometheus saw it for the first time is not
    known, so numbers can be a little too low.
version_added: 0.2.0
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
    support: none
  idempotent:
    support: full
options:
  url:
    description:
      - The address of Prometheus. One of a Service, such as V(http://prometheus-operated.monitoring.svc:9090), is asked
        through the API server, any other one directly.
    type: str
    required: true
  period:
    description:
      - V(24h) or V(30d) up to now, a month as V(2026-10), or V(2026-10-01..2026-10-15).
    type: str
    default: 30d
  models:
    description:
      - The models, each with C(served_name) and, for the cost, C(price) of a million tokens with C(input) and
        C(output).
    type: list
    elements: dict
    default: []
  tiers:
    description:
      - The tiers by name, each with its limits C(tokens) by window, to tell what is left.
    type: dict
    default: {}
  currency:
    description:
      - What prices are in.
    type: str
    default: USD
  namespace:
    description:
      - The namespace of the models' routes, under whose names Limitador counts.
    type: str
    default: token-labs
  limitador:
    description:
      - Whether Limitador is asked what is left of requests.
    type: bool
    default: true
seealso:
  - module: tokenlabs.platform.tenants_info
"""

EXAMPLES = r"""
- name: Ask who used what last month
  tokenlabs.platform.usage_info:
    kubeconfig: /var/snap/microk8s/current/credentials/client.config
    url: http://prometheus-operated.monitoring.svc:9090
    period: 2026-10
    models: "{{ tokenlabs_catalog.models }}"
    tiers: "{{ tokenlabs_catalog.tiers }}"
  register: usage
"""

RETURN = r"""
period:
  description: From when to when.
  type: str
  returned: success
currency:
  description: What O(currency) says.
  type: str
  returned: success
rows:
  description:
    - What each tenant has used of each model, C(tenant), C(tier), C(model), C(requests), C(input), C(output), C(cost).
  type: list
  elements: dict
  returned: success
refused:
  description: Requests over a limit, by tenant.
  type: dict
  returned: success
left:
  description: What is left now, C(tenant), C(what), C(window) in seconds, C(limit), C(left), C(resets_in).
  type: list
  elements: dict
  returned: success
notes:
  description: What the numbers do not tell.
  type: list
  elements: str
  returned: success
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit

from ansible.module_utils.urls import open_url
from ansible_collections.tokenlabs.platform.plugins.module_utils import _usage
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module

LIMITADOR = "/apis/discovery.k8s.io/v1/namespaces/kuadrant-system/endpointslices"
TIMEOUT = 60


def prometheus(url, kube):
    """A function that puts a question to Prometheus for a moment."""
    server = urlsplit(url)
    name, _dot, rest = (server.hostname or "").partition(".")
    space, _dot, domain = rest.partition(".")

    def ask(expression, moment):
        query = {"query": expression, "time": f"{moment.timestamp():.0f}"}
        if domain in ("svc", "svc.cluster.local"):
            service = f"{name}:{server.port or 80}"
            path = f"/api/v1/namespaces/{space}/services/{service}/proxy{server.path.rstrip('/')}/api/v1/query"
            return _usage.samples(kube().request("GET", path, query=query))
        return _usage.samples(fetch(f"{url.rstrip('/')}/api/v1/query?{urlencode(query)}"))

    return ask


def fetch(url):
    try:
        with open_url(url, timeout=TIMEOUT, follow_redirects="none") as answer:
            return json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise _usage.BadAnswer(f"{url.partition('?')[0]}: {error}") from error


def counters(kube, namespace):
    """Limitador's counters, from its pod: the API server would take the encoded slash out of the path."""
    slices = kube.list(LIMITADOR, label_selector="kubernetes.io/service-name=limitador-limitador")
    addresses = [
        address
        for each in slices
        for endpoint in each.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready")
        for address in endpoint["addresses"]
    ]
    if not addresses:
        raise _usage.BadAnswer("Limitador has no pod that is ready")
    places = [quote(f"{namespace}/{route}", safe="") for route in _usage.ROUTES]
    return [each for place in places for each in fetch(f"http://{addresses[0]}:8080/counters/{place}")]


def main():
    module = kube_module(
        argument_spec={
            "url": {"type": "str", "required": True},
            "period": {"type": "str", "default": "30d"},
            "models": {"type": "list", "elements": "dict", "default": []},
            "tiers": {"type": "dict", "default": {}},
            "currency": {"type": "str", "default": "USD"},
            "namespace": {"type": "str", "default": "token-labs"},
            "limitador": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params, now = module.params, datetime.now(UTC)
    known = []

    def kube():
        if not known:
            known.append(connect(module))
        return known[0]

    ask = prometheus(params["url"], kube)
    prices = {each["served_name"]: each.get("price") for each in params["models"]}
    try:
        period = _usage.period_of(params["period"], now)
        answers = {what: ask(expression, period.end) for what, expression in _usage.questions(period).items()}
        found = _usage.usage(period, answers, prices, params["currency"])
        windows = _usage.window_questions(params["tiers"], now)
        told = {key: ask(expression, now) for key, expression in windows.items()}
        found.left = _usage.tokens_left(params["tiers"], told, now)
    except (ValueError, KubeError) as error:
        module.fail_json(msg=str(error))
    if params["limitador"]:
        try:
            found.left += _usage.requests_left(counters(kube(), params["namespace"]))
        except (ValueError, KeyError, KubeError) as error:
            # The rest of the report is whole without it.
            found.notes.append(f"what is left of requests could not be asked: {error}")
    module.exit_json(changed=False, **asdict(found))


if __name__ == "__main__":
    main()
