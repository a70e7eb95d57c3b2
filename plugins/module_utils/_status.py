# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One page about the platform: how it is, what is wrong, and what to do next. Pure, and private to the collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._verify import OK, expected_nodes, object_rows

Data = Mapping[str, Any]

ERROR, WARNING = "error", "warning"
# From this number of days on, the end of a certificate is told, and from this one on it is an error.
CERTIFICATE_DAYS, LATE_DAYS = 30, 7
# Who makes a certificate anew, by namespace and Secret. The job of Envoy Gateway's chart leaves those alone
# that are there, unless it is told otherwise (envoyproxy/gateway v1.7.5 internal/cmd/certgen.go).
_CONTROL_PLANE = (
    "playbooks/gateway.yml --tags envoy_gateway -e "
    """'{"envoy_gateway_values": {"certgen": {"job": {"args": ["--overwrite"]}}}}', """
    "then kubectl -n envoy-gateway-system rollout restart deployment, then playbooks/gateway.yml"
)
RENEWALS = {
    "envoy-ai-gateway-system/self-signed-cert-for-mutating-webhook": "playbooks/gateway.yml renews it",
    **{f"envoy-gateway-system/{name}": _CONTROL_PLANE for name in ("envoy-gateway", "envoy", "envoy-rate-limit")},
}
# More lines of one kind would hide the others.
MOST_LINES = 8
MOST_CERTIFICATES = 5

# Helm releases of the platform: name in Helm -> chart in the catalog.
RELEASES = {
    "gpu-operator": "gpu_operator",
    "aieg-crd": "ai_gateway_crds",
    "aieg": "ai_gateway",
    "eg": "envoy_gateway",
    "kuadrant-operator": "kuadrant_operator",
}
# Those that an inventory may ask for.
MONITORING = {"kube-prometheus-stack": "kube_prometheus_stack", "prometheus-adapter": "prometheus_adapter"}
# Which playbook mends what verify found, by the group of the check.
MENDS = {
    "nodes": "cluster",
    "definitions": "gateway",
    "components": "gateway",
    "gateway": "gateway",
    "models": "inference",
    "routes": "inference",
    "policies": "gateway",
    "tenants": "tenants",
}
ABSENT = ("it does not exist", "the cluster serves no")


@dataclass(frozen=True)
class Finding:
    """One trouble, and what to do about it."""

    level: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Section:
    """A small table of the page."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Page:
    """The page: facts, then what is wrong with them."""

    title: str
    about: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        counts = {level: sum(each.level == level for each in self.findings) for level in (ERROR, WARNING)}
        told = [f"{number} {level}{'s' if number > 1 else ''}" for level, number in counts.items() if number]
        return ", ".join(told) if told else "all is well"


# --- What is wrong ----------------------------------------------------------------------------------------------------


def findings(found: Data, now: datetime) -> list[Finding]:
    """Every trouble with its remedy, causes before their effects."""
    told = [
        *_hosts(found),
        *_api(found),
        *_nodes(found),
        *_releases(found),
        *_checks(found),
        *_tenants(found),
        *_certificates(found, now),
    ]
    return sorted(dict.fromkeys(told), key=lambda each: each.level != ERROR)


def _hosts(found: Data) -> Iterator[Finding]:
    for name, host in found["hosts"].items():
        if host.get("unreachable"):
            yield Finding(
                ERROR,
                f"{name} cannot be reached: {_short(host.get('msg'))}",
                "switch it on, or correct ansible_host; what is told about it below is what the cluster remembers",
            )
        elif "installed" not in host:
            yield Finding(ERROR, f"{name} cannot be looked at: {_short(host.get('msg'))}", "see to that first")
        elif not host["installed"]:
            yield Finding(ERROR, f"MicroK8s is not installed on {name}", "run playbooks/cluster.yml")
        elif host.get("gpu_error"):
            yield Finding(
                ERROR,
                f"the GPU of {name} does not answer: {_short(host['gpu_error'])}",
                f"on {name}: nvidia-smi, then dmesg | grep -i nvrm; a reboot reloads the driver",
            )


def _api(found: Data) -> Iterator[Finding]:
    platform = found["platform"]
    if "nodes" not in platform:
        yield Finding(
            ERROR,
            f"the cluster cannot be asked: {_short(platform.get('msg'))}",
            "on the controller: microk8s status; where nothing is installed yet, run playbooks/site.yml"
            if found["catalog"]["cluster"] == "microk8s"
            else "is tokenlabs_kubeconfig right? Where nothing is installed yet, run playbooks/site.yml",
        )
    for what, why in (platform.get("unread") or {}).items():
        yield Finding(WARNING, f"{what} could not be read: {_short(why)}", "run status.yml again when the API is calm")


def _nodes(found: Data) -> Iterator[Finding]:
    if "nodes" not in found["platform"]:
        return
    live = {each["name"]: each for each in found["platform"]["nodes"]}
    ours = found["catalog"]["cluster"] == "microk8s"
    channel = found["catalog"]["release"]["kubernetes_channel"]
    then = "; then playbooks/cluster.yml" if ours else ""
    for name, wanted in expected_nodes(found["catalog"]).items():
        node = live.get(name)
        if node is None:
            join = "run playbooks/cluster.yml, which joins it" if ours else "correct its name, or add it to the cluster"
            yield Finding(ERROR, f"{name} is no node of the cluster", join)
            continue
        if not node["ready"]:
            since = f" since {node['since']}" if node["since"] else ""
            look = f"on {name}: systemctl status snap.microk8s.daemon-kubelite" if ours else f"look at {name}'s kubelet"
            yield Finding(ERROR, f"node {name} is not Ready{since}: {_short(node['reason'])}", f"{look}{then}")
        if node["cordoned"]:
            yield Finding(
                WARNING,
                f"node {name} is cordoned and takes no pods",
                f"kubectl uncordon {name}, or finish the upgrade or removal that cordoned it",
            )
        for pressure in node["pressure"]:
            yield Finding(
                ERROR, f"node {name} is under {pressure}", f"kubectl describe node {name}; free disk or memory on it"
            )
        if node["ready"] and node["gpus"] < wanted["gpu_slots"]:
            pods = f"kubectl -n gpu-operator get pods --field-selector spec.nodeName={name}"
            yield Finding(
                ERROR,
                f"node {name} offers {node['gpus']} of {wanted['gpu_slots']} GPU slots",
                f"{pods}{then}" if ours else "look at what offers GPUs on it",
            )
        follows = (found["hosts"].get(name) or {}).get("channel")
        if follows and follows != channel:
            yield Finding(
                WARNING, f"{name} follows MicroK8s {follows}, the inventory says {channel}", "run playbooks/upgrade.yml"
            )
    # Of a cluster that somebody else runs, the platform may have a part.
    for name in sorted(set(live) - set(found["catalog"]["nodes"])) if ours else []:
        yield Finding(
            WARNING,
            f"{name} is a node of the cluster and not in the inventory",
            f"add it, or run playbooks/remove_node.yml -e node={name}",
        )


def _releases(found: Data) -> Iterator[Finding]:
    charts, expected = found["catalog"]["charts"], _expected(found["catalog"])
    for each in found["platform"].get("releases") or []:
        if found["catalog"]["cluster"] == "existing" and not (
            each["name"] in expected or each["namespace"] == found["catalog"]["gateway"]["namespace"]
        ):
            continue
        if each["status"] != "deployed":
            yield Finding(
                ERROR,
                f"Helm release {each['namespace']}/{each['name']} is {each['status']}",
                f"run playbooks/{_mends(each)}.yml, which takes it up where it broke off",
            )
        wanted = charts.get(expected.get(each["name"], ""))
        if wanted and each["version"] and each["version"] != wanted["version"]:
            yield Finding(
                WARNING,
                f"{each['name']} is {each['version']}, release set {found['catalog']['release']['name']} has "
                f"{wanted['version']}",
                f"run playbooks/{_mends(each)}.yml",
            )
    live = {each["name"] for each in found["platform"].get("releases") or []}
    for name in sorted(set(expected) & set(MONITORING) - live) if "releases" in found["platform"] else []:
        yield Finding(WARNING, f"{name} is not installed", "run playbooks/observability.yml")


def _expected(catalog: Data) -> dict[str, str]:
    """The releases that the platform consists of, with their charts."""
    wanted = dict(RELEASES)
    if catalog["cluster"] == "existing":
        del wanted["gpu-operator"]
    if catalog["observability"]["prometheus"] == "stack":
        wanted["kube-prometheus-stack"] = MONITORING["kube-prometheus-stack"]
    if any(model.get("max_replicas") for model in catalog["models"]):
        wanted["prometheus-adapter"] = MONITORING["prometheus-adapter"]
    return wanted


def _mends(release: Data) -> str:
    if release["name"] == "gpu-operator":
        return "cluster"
    if release["name"] in MONITORING:
        return "observability"
    return "gateway" if release["name"] in RELEASES else "inference"


def _checks(found: Data) -> Iterator[Finding]:
    """What verify wants ready and is not; a group of which nothing is there is one line."""
    if "nodes" not in found["platform"]:
        return
    # Nodes are told above, in more detail.
    rows = [row for row in object_rows(found["checks"], found["objects"]) if row["group"] != "nodes"]
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        bad = [row for row in mine if row["status"] != OK]
        gone = [row for row in bad if row["got"].startswith(ABSENT)]
        if len(gone) == len(mine) > 1:
            what = {"definitions": "custom resource definitions", "gateway": "Gateway and GatewayClass"}
            yield Finding(
                ERROR,
                f"not installed: {what.get(group, group)} ({len(mine)} objects)",
                f"run playbooks/{MENDS[group]}.yml",
            )
            continue
        for row in bad:
            mends = "cluster" if "gpu-operator" in row["hint"] or row["name"].startswith("GPU ") else MENDS[group]
            yield Finding(
                ERROR,
                f"not so: {row['name']}; {_short(row['got'], 200)}",
                f"{row['hint']}; then playbooks/{mends}.yml",
            )


def _tenants(found: Data) -> Iterator[Finding]:
    drift, tenants = found["drift"], found["platform"].get("tenants") or {}
    changes = {
        "created": "no key yet",
        "updated": "another tier, state or generation than in the inventory",
        "suspended": "let in, suspended in the inventory",
        "resumed": "suspended, present in the inventory",
        "deleted": "still let in, absent in the inventory",
    }
    for what, means in changes.items():
        if drift.get(what):
            yield Finding(
                WARNING,
                f"tenants with {means}: {_names(drift[what])}"
                if what in ("created", "updated")
                else f"tenants that are {means}: {_names(drift[what])}",
                "run playbooks/tenants.yml",
            )
    if drift and "counts" not in drift and "nodes" in found["platform"]:
        yield Finding(
            WARNING, f"tenants could not be compared: {_short(drift.get('msg'))}", "run playbooks/tenants.yml --check"
        )
    if tenants.get("overdue"):
        yield Finding(
            ERROR,
            f"keys are over their time and still let in: {_names(tenants['overdue'])}",
            "run playbooks/tenants.yml",
        )
    if tenants.get("soon"):
        yield Finding(
            WARNING,
            f"keys end soon: {_names(tenants['soon'])}",
            "playbooks/tenants.yml --tags report tells when; change expires in the inventory",
        )


def _certificates(found: Data, now: datetime) -> Iterator[Finding]:
    for name, ends in _ends(found):
        left = (ends - now).days
        if left >= CERTIFICATE_DAYS:
            continue
        level = ERROR if left < LATE_DAYS else WARNING
        when = f"ended on {ends:%Y-%m-%d}" if ends <= now else f"ends in {left} days, on {ends:%Y-%m-%d}"
        host, _separator, file = name.partition(":")
        namespace, _separator, secret = name.partition("/")
        remedy = (
            f"on {host}: microk8s refresh-certs --cert {file}"
            if file
            else RENEWALS.get(name, f"kubectl -n {namespace} get secret {secret}; renew it where it came from")
        )
        yield Finding(level, f"the certificate {name} {when}", remedy)


def _ends(found: Data) -> list[tuple[str, datetime]]:
    """All certificates, ``host:file`` or ``namespace/secret``, those that end first first."""
    ends = [
        (f"{host}:{file}", end)
        for host, state in found["hosts"].items()
        for file, end in (state.get("certificates") or {}).items()
    ]
    ends += [(each["name"], each["ends"]) for each in found["platform"].get("certificates") or []]
    return sorted(((name, datetime.fromisoformat(end)) for name, end in ends), key=lambda each: each[1])


def _short(text: Any, limit: int = 300) -> str:
    """One line of a message that may have many."""
    line = " ".join(str(text or "nothing was told").split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def _names(names: Iterable[Any]) -> str:
    every = sorted(map(str, names))
    return ", ".join(every[:MOST_LINES]) + (f" and {len(every) - MOST_LINES} more" if len(every) > MOST_LINES else "")


# --- The page ---------------------------------------------------------------------------------------------------------


def page(found: Data, now: datetime | None = None) -> Page:
    """The page of what was found.

    :param found: ``catalog``; ``hosts`` with what microk8s_info returned for each; ``checks`` and the ``objects`` that
        wait_ready returned for them; ``platform`` from platform_info; ``drift`` from a rehearsal of tenants.
    """
    now = now or datetime.now(UTC)
    catalog, platform = found["catalog"], found["platform"]
    gateway = catalog["gateway"]
    addresses = [_url(gateway, address) for address in platform.get("addresses") or []]
    release = catalog["release"]
    sections = (
        Section("Nodes", ("NODE", "STATE", "KUBELET", "ARCH", "GPUS", "DRIVER"), tuple(_node_rows(found))),
        Section("Components", ("COMPONENT", "VERSION", "RELEASE SET", "STATE"), tuple(_component_rows(found))),
        Section("Policies", ("POLICY", "STATE"), tuple(_check_rows(found, "policies"))),
        Section("Models", ("MODEL", "SERVED AS", "READY", "ON"), tuple(_model_rows(found))),
        Section("Tenants", ("TIER", "TENANTS"), tuple(_tenant_rows(found))),
        Section(
            "Certificates that end first",
            ("CERTIFICATE", "ENDS", "DAYS LEFT"),
            tuple((name, f"{end:%Y-%m-%d}", str((end - now).days)) for name, end in _ends(found)[:MOST_CERTIFICATES]),
        ),
    )
    return Page(
        title=f"TokenLabs platform at {now:%Y-%m-%d %H:%M} UTC",
        about=(
            ("Release set", f"{release['name']} on {_where(catalog)}"),
            ("Gateway", f"{', '.join(addresses) or 'no address'} ({gateway['namespace']}/{gateway['name']})"),
        ),
        sections=tuple(section for section in sections if section.rows),
        findings=tuple(findings(found, now)),
    )


def _where(catalog: Data) -> str:
    if catalog["cluster"] == "existing":
        return "a cluster that somebody else runs"
    return f"Kubernetes {catalog['release']['kubernetes_channel']}"


def _url(gateway: Data, address: str) -> str:
    """How clients reach the gateway at an address."""
    scheme, port = ("https", gateway["https_port"]) if gateway.get("tls") else ("http", gateway["http_port"])
    return f"{scheme}://{address}" + ("" if port == {"http": 80, "https": 443}[scheme] else f":{port}")


def _node_rows(found: Data) -> Iterator[tuple[str, ...]]:
    live = {each["name"]: each for each in found["platform"].get("nodes") or []}
    for name in sorted({*expected_nodes(found["catalog"]), *live}):
        node, host = live.get(name), found["hosts"].get(name) or {}
        if node is None:
            yield name, "not in the cluster", "-", "-", "-", str(host.get("gpu_driver") or "-")
            continue
        state = "Ready" if node["ready"] else "NotReady"
        state += ", cordoned" if node["cordoned"] else ""
        state += ", control plane" if node["control_plane"] else ""
        gpus = f"{node['gpus_used']} of {node['gpus']} used" if node["gpus"] else "-"
        yield name, state, node["kubelet"], node["arch"], gpus, str(host.get("gpu_driver") or "-")


def _component_rows(found: Data) -> Iterator[tuple[str, ...]]:
    catalog = found["catalog"]
    channel = catalog["release"]["kubernetes_channel"]
    versions = sorted({str(host["version"]) for host in found["hosts"].values() if host.get("version")})
    if versions:
        yield "microk8s", ", ".join(versions), channel, "one version" if len(versions) == 1 else "versions differ"
    live = {each["name"]: each for each in found["platform"].get("releases") or []}
    for name, chart in _expected(catalog).items():
        wanted = catalog["charts"].get(chart)
        each = live.pop(name, None)
        if wanted and "releases" in found["platform"]:
            yield name, each["version"] if each else "-", wanted["version"], each["status"] if each else "not installed"


def _check_rows(found: Data, group: str) -> Iterator[tuple[str, ...]]:
    for row in object_rows(found["checks"], found["objects"]) if "nodes" in found["platform"] else []:
        if row["group"] == group:
            name, _is, state = row["name"].partition(" is ")
            yield name, state if row["status"] == OK else f"not {state}"


def _model_rows(found: Data) -> Iterator[tuple[str, ...]]:
    workers = {each["name"]: each for each in found["platform"].get("workers") or []}
    for model in found["catalog"]["models"]:
        worker = workers.get(model["deployment"])
        ready = f"{worker['available']} of {worker['wanted']}" if worker else "not installed"
        yield model["name"], model["served_name"], ready, ", ".join(model["hosts"])


def _tenant_rows(found: Data) -> Iterator[tuple[str, ...]]:
    tenants = found["platform"].get("tenants") or {}
    for tier, number in (tenants.get("tiers") or {}).items():
        yield tier or "without a tier", str(number)
    if tenants.get("keys"):
        yield "keys", ", ".join(f"{number} {state}" for state, number in tenants["keys"].items())


# --- Forms ------------------------------------------------------------------------------------------------------------


def text(shown: Page) -> str:
    """For the terminal: what is wrong comes last, where one looks first."""
    lines = [shown.title, ""]
    width = max(len(name) for name, _value in shown.about)
    lines += [f"{name.ljust(width)}  {value}" for name, value in shown.about]
    for section in shown.sections:
        rows = [section.head, *section.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(section.head))]
        lines.append("")
        lines += ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", f"{shown.verdict[0].upper()}{shown.verdict[1:]}."]
    for each in shown.findings:
        lines += [f"{each.level.upper()}  {each.what}", f"{' ' * len(each.level)}  -> {each.remedy}"]
    return "\n".join(lines) + "\n"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2430;"
    "background:#fff}h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}"
    "table{border-collapse:collapse;width:100%}th{text-align:left;font-size:.75rem;color:#5a6675}"
    "th,td{padding:.3rem .8rem .3rem 0;border-bottom:1px solid #e3e7ec;vertical-align:top}"
    ".error{color:#a3161b}.warning{color:#8a5a00}.fine{color:#1a6b33}"
    "dt{float:left;width:9rem;color:#5a6675}dd{margin:0}li{margin:.4rem 0}"
    "@media(prefers-color-scheme:dark){body{background:#14181d;color:#dde3ea}th,td{border-color:#2c343d}"
    ".error{color:#ff8a86}.warning{color:#e8b34b}.fine{color:#7ad08f}}"
)


def html(shown: Page) -> str:
    """One file that needs no other: for a browser or a mail."""
    worst = next((level for level in (ERROR, WARNING) if any(each.level == level for each in shown.findings)), "fine")
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(shown.title)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f'<h1>{escape(shown.title)}: <span class="{worst}">{escape(shown.verdict)}</span></h1><dl>',
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in shown.about),
        "</dl>",
    ]
    if shown.findings:
        parts.append("<h2>What is wrong, and what to do</h2><ul>")
        parts += [
            f'<li><strong class="{each.level}">{each.level}</strong> '
            f"{escape(each.what)}<br>&rarr; {escape(each.remedy)}</li>"
            for each in shown.findings
        ]
        parts.append("</ul>")
    for section in shown.sections:
        parts.append(f"<h2>{escape(section.title)}</h2><table>{_html_row(section.head, 'th')}")
        parts += [_html_row(row, "td") for row in section.rows]
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


FORMS: dict[str, Callable[[Page], str]] = {"text": text, "html": html}


def render(found: Data, form: str = "text") -> str:
    """The page of what was found, as text or as one HTML file."""
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; known are {', '.join(FORMS)}")
    return FORMS[form](page(found))
