# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What helmfile did, or would do, told honestly.

This module util is private to the collection: it may change in any way at any time.

helmfile's exit codes say whether anything changed, its output only in part what; the revisions that helm lists before
and after are the firm source for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[list[str]], tuple[int, str, str]]

UNCHANGED, ERROR, CHANGED = 0, 1, 2
# An uninstalled release is a change without asking the chart, whose validation would need CRDs that may come later;
# Secrets never show.
PLAN = ("--detailed-exitcode", "--skip-diff-on-install", "--suppress-secrets", "--context", "3")
# Sees what was changed by hand, at the price of a dry-run PATCH for every object: only used where a look found that.
THREE_WAY = ("--diff-args", "--three-way-merge")
EVENTS_SHOWN = 6

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_AFFECTED = re.compile(r"^  (\S+) \(.*\) [A-Z]+$", re.MULTILINE)
_ERROR_LINE = re.compile(r"^\s*Error: (.+?)\]?$", re.MULTILINE)
_FAILED = (
    re.compile(r"failed processing release ([^\s:]+):"),
    re.compile(r'release "([^"]+)":'),
    re.compile(r"^\s*\d+: --allow-unreleased \(\d+ bytes\)\n\s*\d+: (\S+) \(", re.MULTILINE),
)
_REMEDIES = (
    (
        re.compile(r'unknown command "diff" for "helm"'),
        "the plugin helm-diff is not installed where HELM_PLUGINS points; the role kube_tools installs it",
    ),
    (
        re.compile(r"cluster unreachable|connection refused.*(:6443|:16443|/version)"),
        "the Kubernetes API does not answer; look at `microk8s status` on the controller",
    ),
    (
        re.compile(r"another operation \(install/upgrade/rollback\) is in progress"),
        "another helm is at work on it, or was killed there; gateway.yml and inference.yml free such releases first",
    ),
    (
        re.compile(
            r"FetchReference|failed to (?:download|fetch|pull|do request)|manifest unknown|chart .* not found"
            r'|path ".*" not found|not a valid chart repository|no such host|: not found$'
        ),
        "the chart source does not deliver this chart; check tokenlabs_mirrors.charts, or the release set's reference",
    ),
)


class HelmfileError(Exception):
    """helmfile or helm could not do what was asked; failed names the releases that are known to be concerned."""

    def __init__(self, message: str, failed: Iterable[str] = ()):
        super().__init__(message)
        self.failed = list(failed)


@dataclass(frozen=True)
class Release:
    """A release, as declared in a helmfile or as installed."""

    name: str
    namespace: str
    revision: int = 0
    status: str = ""
    wanted: bool = True

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass
class Outcome:
    """What changed, or would change."""

    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    diff: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.updated or self.removed)


class Helmfile:
    """The commands, as data; what they print is taken apart by the functions below."""

    def __init__(self, run: Run, helmfile: str, helm: str, file: str, context: str | None = None):
        self._run = run
        self._helm = [helm]
        # A file without releases is right when the last model is gone.
        self._helmfile = [helmfile, "--file", file, "--helm-binary", helm, "--no-color", "--allow-no-matching-release"]
        if context:
            self._helm += ["--kube-context", context]
            self._helmfile += ["--kube-context", context]

    def declared(self) -> dict[str, Release]:
        """Releases that the file names, wanted or not."""
        out = self._must([*self._helmfile, "list", "--skip-charts", "--output", "json"])
        return {release.id: release for release in parse_declared(out)}

    def installed(self, label: str | None = None) -> dict[str, Release]:
        """Releases that helm knows, in whatever state."""
        command = [*self._helm, "list", "--all-namespaces", "--all", "--max", "0", "--output", "json"]
        out = self._must([*command, "--selector", label] if label else command)
        return {release.id: release for release in parse_installed(out)}

    def manifest(self, release: Release) -> str:
        """What helm has sent for the release."""
        return self._must([*self._helm, "get", "manifest", release.name, "--namespace", release.namespace])

    def diff(self, three_way: bool) -> tuple[int, str, str]:
        return self._plan("diff", three_way)

    def apply(self, three_way: bool) -> tuple[int, str, str]:
        return self._plan("apply", three_way)

    def sync(self, release: Release) -> None:
        selector = f"name={release.name},namespace={release.namespace}"
        self._must([*self._helmfile, "--selector", selector, "sync", "--skip-needs"])

    def destroy(self) -> None:
        self._must([*self._helmfile, "destroy", "--skip-charts"])

    def uninstall(self, release: Release) -> None:
        self._must([*self._helm, "uninstall", release.name, "--namespace", release.namespace])

    def _plan(self, verb: str, three_way: bool) -> tuple[int, str, str]:
        rc, out, err = self._run([*self._helmfile, verb, *PLAN, *(THREE_WAY if three_way else ())])
        if rc not in (UNCHANGED, CHANGED):
            raise explain(out, err)
        return rc, out, err

    def _must(self, command: list[str]) -> str:
        rc, out, err = self._run(command)
        if rc:
            raise explain(out, err)
        return out


def converge(
    tool: Helmfile,
    check: bool,
    label: str | None = None,
    drifted: Callable[[Release, str], bool] = lambda release, manifest: False,
) -> Outcome:
    """Make the cluster have the releases of the file; with a label also remove those that left the file.

    drifted tells for a release and its manifest whether its objects may be other than helm has made them.
    """
    listed = tool.declared()
    wanted = {name for name, release in listed.items() if release.wanted}
    before = tool.installed()
    unwanted = {name for name in listed if name not in wanted and name in before}
    dropped = _dropped(tool, label, listed)
    # A failed upgrade may leave nothing to compare; the release is not done all the same.
    unfinished = sorted(name for name in wanted if name in before and before[name].status == "failed")
    removed = sorted(unwanted | {release.id for release in dropped})
    suspects = [name for name in sorted(wanted & set(before)) if drifted(before[name], tool.manifest(before[name]))]

    if check:
        told = [tool.diff(three_way) for three_way in ((False, True) if suspects else (False,))]
        affected = {name for name in wanted for _rc, _out, err in told if listed[name].name in affected_names(err)}
        # Where both differ, the second tells all that the first does, held against what is really there.
        texts = [text for text in (plain_diff(out) for _rc, out, _err in told) if text]
        return Outcome(sorted(affected | set(unfinished)), removed, texts[-1] if texts else "")

    rc, out, _err = tool.apply(three_way=False)
    after = tool.installed() if rc == CHANGED else before
    diffs = [plain_diff(out)]
    # The upgrade just made may have put right what was changed by hand.
    if any(drifted(after[name], tool.manifest(after[name])) for name in suspects):
        rc, out, _err = tool.apply(three_way=True)
        diffs.append(plain_diff(out))
        after = tool.installed()
    for name in unfinished:
        if after[name].revision == before[name].revision:
            tool.sync(listed[name])
    if unfinished:
        after = tool.installed()
    for release in dropped:
        tool.uninstall(release)
    updated = [name for name in wanted if name in after and _differs(before.get(name), after[name])]
    return Outcome(sorted(updated), removed, "\n".join(filter(None, diffs)))


def remove(tool: Helmfile, check: bool, label: str | None = None) -> Outcome:
    """Uninstall the releases of the file, and with a label also those that left it."""
    listed = tool.declared()
    before = tool.installed()
    present = [name for name in listed if name in before]
    dropped = _dropped(tool, label, listed)
    names = sorted([*present, *(release.id for release in dropped)])
    if names and not check:
        if present:
            tool.destroy()
        for release in dropped:
            tool.uninstall(release)
        left = sorted(set(names) & set(tool.installed()))
        if left:
            raise HelmfileError(f"still installed after helmfile destroy: {', '.join(left)}", left)
    return Outcome(removed=names)


def _dropped(tool: Helmfile, label: str | None, listed: Mapping[str, Release]) -> list[Release]:
    """Installed releases that carry our label but are not in the file any more."""
    labelled = tool.installed(label) if label else {}
    return [release for name, release in sorted(labelled.items()) if name not in listed]


def _differs(before: Release | None, after: Release) -> bool:
    return before is None or before.revision != after.revision


def parse_declared(text: str) -> list[Release]:
    return [
        Release(
            entry["name"],
            entry.get("namespace") or "default",
            wanted=entry.get("enabled", True) and entry.get("installed", True),
        )
        for entry in _json(text, "helmfile list")
    ]


def parse_installed(text: str) -> list[Release]:
    return [
        Release(entry["name"], entry["namespace"], int(entry["revision"]), entry["status"])
        for entry in _json(text, "helm list")
        if entry["status"] != "uninstalled"
    ]


def _json(text: str, command: str) -> list[dict[str, Any]]:
    try:
        return json.loads(text or "[]") or []
    except ValueError as error:
        raise HelmfileError(f"{command} printed something other than JSON: {text[:200]!r}") from error


def affected_names(err: str) -> set[str]:
    """The names under "Affected releases are:" that helmfile diff writes to its error output."""
    _before, found, listing = _ANSI.sub("", err).partition("Affected releases are:\n")
    return set(_AFFECTED.findall(listing)) if found else set()


def plain_diff(out: str) -> str:
    """The diff alone, without what helmfile says beside it."""
    kept = [line for line in _ANSI.sub("", out).splitlines() if not line.startswith("Comparing release=")]
    return "\n".join(kept).strip()


def explain(out: str, err: str) -> HelmfileError:
    """One sentence on what went wrong, for which release, and what to do about it."""
    text = _ANSI.sub("", err)
    failed = failed_releases(text)
    causes = list(dict.fromkeys(_ERROR_LINE.findall(text.partition("COMBINED OUTPUT:")[0] or text)))
    causes = [cause for cause in causes if cause != 'plugin "diff" exited with error']
    if not causes:
        lines = [line.strip() for line in (text.strip() or out.strip()).splitlines() if line.strip()]
        causes = lines[-3:] or ["it ended without a word"]
    reason = "; ".join(causes)
    remedy = next((advice for pattern, advice in _REMEDIES if pattern.search(reason)), "")
    subject = f"release {', '.join(failed)}" if failed else "helmfile"
    return HelmfileError(f"{subject}: {reason}" + (f" ({remedy})" if remedy else ""), failed)


def failed_releases(err: str) -> list[str]:
    """Names from the table of failed releases, or from the error itself."""
    names: list[str] = []
    _before, table, rest = err.partition(" Failed Releases ")
    if table:
        rows = rest.splitlines()[2:]
        names += [row.split()[0] for row in rows[: rows.index("") if "" in rows else len(rows)]]
    for pattern in _FAILED:
        names += pattern.findall(err)
    return list(dict.fromkeys(names))


def warnings_of(events: Iterable[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """The last warnings about objects that belong to the releases, oldest first: what the pods complain about."""
    prefixes = tuple(name.rpartition("/")[2] for name in names)
    told = [event for event in events if event.get("type") == "Warning" and _about(event).startswith(prefixes)]
    told.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    lines = [": ".join((_about(event), event.get("reason", ""), event.get("message", ""))) for event in told]
    return list(dict.fromkeys(lines))[-EVENTS_SHOWN:]


def _about(event: Mapping[str, Any]) -> str:
    return str((event.get("involvedObject") or {}).get("name", ""))


def files(definition: Mapping[str, Any], values: Mapping[str, Any], dump: Callable[[Any], str]) -> dict[str, str]:
    """The texts of helmfile.yaml and its values files, by relative path."""
    heading = "# Generated from the inventory; changes made here are lost.\n"
    texts = {"helmfile.yaml": heading + dump(dict(definition))}
    texts.update({f"values/{name}.yaml": heading + dump(content) for name, content in values.items()})
    return texts


def summary(outcome: Outcome) -> str:
    """The text for --diff: which releases, then what in them."""
    lines = [f"+ release {name}" for name in outcome.updated] + [f"- release {name}" for name in outcome.removed]
    return "\n".join([*lines, outcome.diff, ""]) if outcome.diff else "\n".join([*lines, ""])
