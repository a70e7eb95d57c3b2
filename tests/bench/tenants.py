# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants by the thousand, beside the other ways of making their Secrets."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from tests.bench.report import Row, Section
from tests.bench.tenants_bench import SETTING, WORKERS, Bench, bench, tenants

MANY, FEW = 10_000, 50
ROUNDS = 3
SHELL = """
set -eu
for i in $(seq "$1"); do
API_KEY="tlabs_sk_$(openssl rand -hex 24)"
cat <<EOF | kubectl apply -f - >/dev/null
apiVersion: v1
kind: Secret
metadata:
  name: tenant-s$i
  namespace: $2
  labels:
    authorino.kuadrant.io/managed-by: authorino
    app: token-labs
  annotations:
    kuadrant.io/groups: "pro"
    secret.kuadrant.io/user-id: "s$i"
stringData:
  api_key: "$API_KEY"
EOF
done
"""


def run(directory: Path, scale: float) -> Section:
    with bench(directory) as begun:
        return measure(begun, scale)


def measure(bench: Bench, scale: float) -> Section:
    many, few = (max(5, int(number * scale)) for number in (MANY, FEW))
    section = Section(
        "Tenants",
        f"{SETTING} Each ratio was taken within one run of the benchmark; what\n"
        "is held against each other ran by turns.",
    )
    wanted = tenants(many)

    # New ones, and the bare loop, by turns.
    loop = module = playbook = 0.0
    for number in range(ROUNDS):
        loop += bench.loop(many) / ROUNDS
        bench.operator = bench.another(f"new-{number}")
        new = bench.tenants(wanted)
        module, playbook = module + new.module.seconds / ROUNDS, playbook + new.playbook.seconds / ROUNDS
    section.rows.append(
        Row(
            f"{many:,} new",
            f"the module at ≥ 70 % of the rate of a bare loop that creates, {WORKERS} requests at a time for both",
            f"{loop / module:.0%} ({module:.1f} s against {loop:.1f} s, {ROUNDS} times each; "
            f"the whole playbook {playbook:.1f} s)",
            loop / module >= 0.7,
        )
    )

    # Nothing to do, before and after the same with one task of kubernetes.core.k8s.
    unchanged = [bench.tenants(wanted) for _ in range(ROUNDS)]
    core = bench.kubernetes_core(many, loop=False)
    unchanged += [bench.tenants(wanted) for _ in range(ROUNDS)]
    typical = median(each.playbook.seconds for each in unchanged)
    memory = max(each.module.memory for each in unchanged)
    requests = max(each.requests for each in unchanged)
    times = core.playbook.seconds / typical
    section.rows += [
        Row(f"{many:,} unchanged", "≤ 25 requests", f"{requests}", requests <= 25),
        Row(
            "",
            "the whole playbook ≥ 15 × faster than one task of `kubernetes.core.k8s` with all documents",
            f"{times:.1f} × ({typical:.1f} s against {core.playbook.seconds:.1f} s and {core.requests:,} requests)",
            times >= 15,
        ),
        Row("", "peak memory of the module ≤ 150 MB", f"{memory:.0f} MB", memory <= 150),
    ]

    changed = [{**each, "tier": "pro"} for each in wanted[:10]] + wanted[10:]
    ten = bench.tenants(changed)
    section.rows.append(
        Row(
            f"{many:,} present, 10 change tier",
            "≤ 45 requests",
            f"{ten.requests} ({ten.playbook.seconds:.1f} s)",
            ten.requests <= 45,
        )
    )

    short, long = bench.kubernetes_core(few // 5, loop=True), bench.kubernetes_core(few, loop=True)
    each = (long.playbook.seconds - short.playbook.seconds) / (few - few // 5)
    section.rows.append(
        Row(
            f"`loop:` over `kubernetes.core.k8s`, {few} unchanged",
            "",
            f"{each:.2f} s each; {many:,} would take {each * many / 3600:.1f} h (extrapolated)",
        )
    )
    each = bench.seconds("sh", "-c", SHELL, "sh", str(few), bench.namespace()) / few
    section.rows.append(
        Row(
            f"a shell loop of `openssl` and `kubectl apply`, {few} new",
            "",
            f"{each:.2f} s each; {many:,} would take {each * many / 60:.0f} min (extrapolated)",
        )
    )
    return section
