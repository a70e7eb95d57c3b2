# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated snap store: which channel of which snap holds what."""

from __future__ import annotations

from dataclasses import dataclass

from .host import Host


@dataclass(frozen=True)
class Release:
    channel: str  # track/risk
    version: str
    revision: int

    @property
    def minor(self) -> int:
        return int(self.version.lstrip("v").split(".")[1])


# The arm64 build of a release carries the revision after that of the amd64 build.
_TRACKS: dict[str, tuple[str, int]] = {
    "1.32": ("v1.32.9", 8415),
    "1.33": ("v1.33.5", 8462),
    "1.34": ("v1.34.3", 8511),
    "1.35": ("v1.35.0", 8612),
    "1.36": ("v1.36.0", 8730),
}
_LATEST = "1.35"
_ARCHS = ("amd64", "arm64")

SUMMARY = "Kubernetes for workstations and appliances"
PUBLISHER = "canonical**"


def normalise(channel: str) -> str:
    """`1.34` is `1.34/stable`, `stable` is `latest/stable`."""
    parts = [p for p in channel.split("/") if p]
    risks = ("stable", "candidate", "beta", "edge")
    if not parts:
        return "latest/stable"
    if len(parts) == 1:
        return f"latest/{parts[0]}" if parts[0] in risks else f"{parts[0]}/stable"
    return "/".join(parts)


def channels(host: Host) -> list[Release]:
    """What the store has for this host's architecture; with the fault `newer_patch`, one patch release further."""
    if host.arch not in _ARCHS:
        return []
    further = 1 if host.fault("newer_patch") else 0
    found = []
    for track in ("latest", *sorted(_TRACKS, reverse=True)):
        version, revision = _TRACKS[_LATEST if track == "latest" else track]
        minor, _, patch = version.rpartition(".")
        revision += _ARCHS.index(host.arch) + 20 * further
        found.append(Release(f"{track}/stable", f"{minor}.{int(patch) + further}", revision))
    return found


def find(channel: str, host: Host) -> Release | None:
    wanted = normalise(channel)
    return next((r for r in channels(host) if r.channel == wanted), None)


def archs() -> tuple[str, ...]:
    return _ARCHS
