# SPDX-License-Identifier: GPL-3.0-or-later
"""A hundred hosts and ten thousand tenants are read and judged in seconds, by processor time, and in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.plugins.catalog.inventories import write

HOSTS = 100
TENANTS = 10_000
ROOT = Path(__file__).resolve().parents[4]

MEASURE = """
import resource, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/collections"]
from tests.unit.plugins.catalog.inventories import load
before = resource.getrusage(resource.RUSAGE_SELF)
answer = load(Path({inventory!r}))
after = resource.getrusage(resource.RUSAGE_SELF)
assert not answer.get("failed"), answer["msg"]
assert len(answer["catalog"]["nodes"]) == {hosts} + 1
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss)
"""


def large(directory: Path) -> Path:
    sparks = "".join(f"    spark-{n:03}: {{ansible_host: 10.0.1.{n}}}\n" for n in range(1, HOSTS + 1))
    files: dict[str, str | None] = {
        "hosts.yml": f"controllers:\n  hosts:\n    controller: {{ansible_host: 10.0.0.1}}\nsparks:\n  hosts:\n{sparks}",
        "host_vars/spark-01.yml": None,
        "host_vars/spark-02.yml": None,
        "group_vars/all/main.yml": "registry: ghcr.io/x\ntokenlabs_loadbalancer_range: 10.0.2.1-10.0.2.9\n",
        "group_vars/all/tiers.yml": "tokenlabs_tiers:\n"
        + "".join(f"  t{n}: {{requests: {{1m: 10}}, tokens: {{1m: 5, 24h: 50}}}}\n" for n in range(10)),
        "group_vars/all/tenants.yml": "tokenlabs_tenants:\n"
        + "".join(f"  - {{name: tenant-{n}, tier: t{n % 10}}}\n" for n in range(TENANTS)),
    }
    for n in range(1, HOSTS + 1):
        model = f'{{name: m-{n % 15}, model: o/m-{n % 15}, image: "{{{{ registry }}}}/s:v1", args: [--a=1]}}'
        files[f"host_vars/spark-{n:03}.yml"] = f"tokenlabs_models:\n  - {model}\n"
    return write(directory, files)


def test_a_large_inventory(tmp_path: Path) -> None:
    script = MEASURE.format(root=str(ROOT), inventory=str(large(tmp_path)), hosts=HOSTS)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    seconds, kilobytes = map(float, ran.stdout.split())
    assert seconds < 5
    assert kilobytes < 400 * 1024
