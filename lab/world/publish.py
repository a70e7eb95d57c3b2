# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the lab's registry and mirror offer what the release sets name: stand-in charts, or the real ones.

With an upstream directory (`LAB_UPSTREAM`), `charts/NAME-VERSION.tgz` is offered where it exists, and CRDs and bundles
come from `crds/` and `bundles/`.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import runpy
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lab.world import crdgen
from lab.world.oci import Registry
from lab.world.store import Json

log = logging.getLogger("world")
REPO = Path(__file__).resolve().parents[2]
CHARTS = Path(__file__).parent / "charts"
RELEASES = REPO / "plugins" / "module_utils" / "_release_sets.py"

# Table of CRDs -> (component whose version it has, directory of the real ones in an upstream directory).
CRD_SOURCES = {
    "gateway-api": ("gateway_api", "gateway-api-{}-standard"),
    "inference-extension": ("inference_extension", "inference-extension-{}"),
    "envoy-gateway": ("envoy_gateway", "envoy-gateway-{}"),
    "ai-gateway": ("ai_gateway", "envoy-ai-gateway-{}"),
    "kuadrant": ("kuadrant_operator", "kuadrant-operator-{}"),
    "gpu-operator": ("gpu_operator", "gpu-operator-{}"),
    # The chart says in appVersion which operator it has.
    "prometheus-operator": ("kube_prometheus_stack", "prometheus-operator-v0.93.1"),
    "prometheus": ("kube_prometheus_stack", "prometheus-{}"),
}
BUNDLES = {
    "gateway_api": ("gateway-api", "gateway-api-{}-standard-install.yaml"),
    "inference_extension": ("inference-extension", "gateway-api-inference-extension-{}-manifests.yaml"),
}


@dataclass(frozen=True)
class Part:
    """CRDs inside a chart: in `crds/` (Helm installs them once) or in a template (Helm owns them)."""

    table: str
    place: str  # "crds" or "templates"
    condition: str = ""


CHART_CRDS = {
    "gpu-operator": (Part("gpu-operator", "crds"),),
    "ai-gateway-crds-helm": (Part("ai-gateway", "templates"),),
    "gateway-helm": (Part("gateway-api", "crds"), Part("envoy-gateway", "crds")),
    "gateway-crds-helm": (
        Part("gateway-api", "templates", ".Values.crds.gatewayAPI.enabled"),
        Part("envoy-gateway", "templates", ".Values.crds.envoyGateway.enabled"),
    ),
    "kuadrant-operator": (Part("kuadrant", "templates"),),
    "kube-prometheus-stack": (Part("prometheus-operator", "crds"), Part("prometheus", "crds")),
}


@dataclass(frozen=True)
class Offer:
    """A chart under a name and a version."""

    name: str
    version: str
    repository: str  # path in the registry: original host, path and name


@dataclass(frozen=True)
class ReleaseSet:
    """One release set: its versions, and where the charts and manifests of all sets are published."""

    versions: dict[str, str]
    charts: dict[str, dict[str, str]]
    manifests: dict[str, str]


def load_releases(path: Path = RELEASES) -> dict[str, ReleaseSet]:
    """The collection's release sets, from the file that holds nothing but data."""
    data = runpy.run_path(str(path))
    return {
        name: ReleaseSet(told["versions"], data["CHARTS"], data["MANIFESTS"]) for name, told in data["SETS"].items()
    }


def offers(release: ReleaseSet) -> Iterator[Offer]:
    for chart in release.charts.values():
        place = urlsplit(chart["repository"])
        path = "/".join(part for part in (place.netloc, *place.path.strip("/").split("/"), chart["name"]) if part)
        yield Offer(chart["name"], release.versions[chart["component"]], path)


# --- charts
def crd_text(table: str, release: ReleaseSet, upstream: Path | None) -> str:
    """CRDs as a YAML stream: upstream's where they are at hand, else condensed ones."""
    component, pattern = CRD_SOURCES[table]
    real = upstream / "crds" / pattern.format(release.versions[component]) if upstream else None
    if real and real.is_dir():
        return "\n---\n".join(path.read_text().strip() for path in sorted(real.glob("*.yaml"))) + "\n"
    return crdgen.render(table, release.versions[component])


def number(version: str) -> tuple[int, ...]:
    """`v1.8.3` as (1, 8, 3)."""
    return tuple(int(part) for part in version.lstrip("v").split("-")[0].split("."))


def laid_over(values: Any, other: Any) -> Any:
    """Values with others over them; a null takes one away, as for Helm."""
    if not isinstance(values, dict) or not isinstance(other, dict):
        return other
    merged = {**values, **{key: laid_over(values.get(key), value) for key, value in other.items()}}
    return {key: value for key, value in merged.items() if value is not None or other.get(key, 0) is not None}


def chart_files(offer: Offer, release: ReleaseSet, upstream: Path | None) -> dict[str, bytes]:
    """The files of a stand-in chart, with its version and its CRDs."""
    source = CHARTS / offer.name
    files = {str(path.relative_to(source)): path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()}
    # What has become of the values in later versions.
    for path in sorted(name for name in files if name.startswith("values-")):
        since, text = path.removeprefix("values-").removesuffix(".yaml"), files.pop(path)
        if number(offer.version) >= number(since):
            values = laid_over(yaml.safe_load(files["values.yaml"]), yaml.safe_load(text))
            files["values.yaml"] = yaml.safe_dump(values, sort_keys=False).encode()
    about = yaml.safe_load(files["Chart.yaml"])
    about |= {"version": offer.version, "appVersion": offer.version}
    files["Chart.yaml"] = yaml.safe_dump(about, sort_keys=False).encode()
    for part in CHART_CRDS.get(offer.name, ()):
        text = crd_text(part.table, release, upstream).encode()
        if part.place == "crds":
            files[f"crds/{part.table}.yaml"] = text
        else:
            # Not a template themselves: descriptions may hold braces.
            files[f"files/{part.table}.yaml"] = text
            template = f'{{{{ .Files.Get "files/{part.table}.yaml" }}}}'
            if part.condition:
                template = f"{{{{- if {part.condition} }}}}\n{template}\n{{{{- end }}}}"
            files[f"templates/crds-{part.table}.yaml"] = f"{template}\n".encode()
    return files


def archive(name: str, files: dict[str, bytes]) -> bytes:
    """A chart archive that depends on its files alone."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        # Helm wants Chart.yaml early.
        for path in sorted(files, key=lambda item: (item != "Chart.yaml", item)):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(files[path]), 0o644
            tar.addfile(entry, io.BytesIO(files[path]))
    return raw.getvalue()


def metadata(chart: bytes) -> Json:
    """Chart.yaml of an archive."""
    with tarfile.open(fileobj=io.BytesIO(chart), mode="r:gz") as tar:
        for entry in tar:
            if entry.name.count("/") == 1 and entry.name.endswith("/Chart.yaml"):
                content = tar.extractfile(entry)
                assert content
                return yaml.safe_load(content)
    raise ValueError("no Chart.yaml in the archive")


def package(offer: Offer, release: ReleaseSet, upstream: Path | None) -> tuple[bytes, str]:
    """A chart's archive and where it is from."""
    real = upstream / "charts" / f"{offer.name}-{offer.version}.tgz" if upstream else None
    if real and real.is_file():
        return real.read_bytes(), "upstream"
    return archive(offer.name, chart_files(offer, release, upstream)), "stand-in"


def publish_charts(registry: str, upstream: Path | None, releases: dict[str, ReleaseSet]) -> dict[str, str]:
    """Pushes every chart of the release sets; returns REPOSITORY:VERSION -> where it is from."""
    target = Registry(registry)
    done: dict[str, str] = {}
    for release in releases.values():
        for offer in offers(release):
            reference = f"{offer.repository}:{offer.version}"
            if reference not in done:
                chart, origin = package(offer, release, upstream)
                target.push_chart(offer.repository, offer.version, chart, metadata(chart))
                done[reference] = origin
                log.info("chart %s (%s)", reference, origin)
    return done


# --- manifests
# From 1.5 on the Gateway API brings a policy that refuses older definitions of it.
SAFE_UPGRADES = """\
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: safe-upgrades.gateway.networking.k8s.io}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - apiGroups: [apiextensions.k8s.io]
      apiVersions: [v1]
      operations: [CREATE, UPDATE]
      resources: [customresourcedefinitions]
  validations:
  - expression: >-
      object.spec.group != 'gateway.networking.k8s.io' || (has(object.metadata.annotations)
      && 'gateway.networking.k8s.io/bundle-version' in object.metadata.annotations
      && !object.metadata.annotations['gateway.networking.k8s.io/bundle-version'].matches('^v1[.][0-4][.]'))
    message: Installing CRDs with version before v1.5.0 is prohibited by default.
    reason: Invalid
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: safe-upgrades.gateway.networking.k8s.io}
spec: {policyName: safe-upgrades.gateway.networking.k8s.io, validationActions: [Deny]}
"""


def publish_manifests(destination: Path, upstream: Path | None, releases: dict[str, ReleaseSet]) -> list[Path]:
    """Writes the bundles of the release sets as HOST/PATH below a mirror's directory."""
    written = []
    for release in releases.values():
        for component, url in release.manifests.items():
            version = release.versions[component]
            place = urlsplit(url.format(version=version))
            target = destination / place.netloc / place.path.strip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            table, pattern = BUNDLES[component]
            real = upstream / "bundles" / pattern.format(version) if upstream else None
            text = real.read_text() if real and real.is_file() else crd_text(table, release, upstream)
            if component == "gateway_api" and number(version) >= (1, 5) and "safe-upgrades" not in text:
                text += SAFE_UPGRADES
            target.write_text(text)
            written.append(target)
            log.info("manifest %s", target)
    return written


def upstream_of(state: Path) -> Path | None:
    """The upstream directory that a lab was started with."""
    try:
        chosen = json.loads((state / "lab.json").read_text()).get("upstream")
    except FileNotFoundError:
        chosen = None
    return Path(chosen) if chosen else None


def publish_all(registry: str, state: Path) -> None:
    upstream, releases = upstream_of(state), load_releases()
    publish_manifests(state / "downloads", upstream, releases)
    if registry:
        publish_charts(registry, upstream, releases)
