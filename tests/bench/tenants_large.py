# SPDX-License-Identifier: GPL-3.0-or-later
"""How runs grow with the number of tenants."""

from __future__ import annotations

from pathlib import Path

from tests.bench.report import Row, Section
from tests.bench.tenants_bench import SETTING, bench, tenants

MANY, VERY_MANY = 10_000, 100_000


def run(directory: Path, scale: float) -> Section:
    many, very_many = int(MANY * scale), int(VERY_MANY * scale)
    with bench(directory) as begun:
        begun.tenants(tenants(many))
        small = begun.tenants(tenants(many))
        new = begun.tenants(tenants(very_many))
        large = begun.tenants(tenants(very_many))
    ratio = large.playbook.seconds / small.playbook.seconds
    times = very_many // many
    return Section(
        f"{very_many:,} tenants",
        SETTING,
        [
            Row(
                f"{very_many:,} unchanged",
                f"no more than {times} × the time of {many:,}",
                f"{ratio:.1f} × ({large.playbook.seconds:.1f} s against {small.playbook.seconds:.1f} s)",
                ratio <= times,
            ),
            Row("", "a request for each page of 500", f"{large.requests}", large.requests <= very_many // 500 + 5),
            Row(
                "",
                "",
                f"the module takes {large.module.memory:.0f} MB, ansible-playbook {large.playbook.memory:.0f} MB",
            ),
            Row(
                f"{very_many - many:,} new",
                "",
                f"{new.module.seconds:.0f} s, {(very_many - many) / new.module.seconds:.0f} a second",
            ),
        ],
    )
