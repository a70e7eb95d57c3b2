# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for the controllers of the platform: one file per upstream component."""

from __future__ import annotations

from lab.world.controllers import (
    ai_gateway,
    envoy_gateway,
    envoy_policies,
    gpu_operator,
    kuadrant,
    kubelet,
    microk8s,
    prometheus,
)
from lab.world.engine import Reconciler

# Order matters only for speed: what others wait for comes first.
RECONCILERS: list[Reconciler] = [
    *kubelet.RECONCILERS,
    *microk8s.RECONCILERS,
    *gpu_operator.RECONCILERS,
    *envoy_gateway.RECONCILERS,
    *ai_gateway.RECONCILERS,
    *kuadrant.RECONCILERS,
    *envoy_policies.RECONCILERS,
    *prometheus.RECONCILERS,
]
