# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the lab (``lab/ctl``)."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab import build, controlplane, faults, hosts, limits, netns, pki, processes, rootfs, wheels, wire
from lab.build import clock
from lab.paths import API_URL, DEFAULT_HOSTS, HOSTS_SIDE, OUTSIDE, REPO, Lab, LabError, plan_hosts, state_root

PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "docker-registry": "docker-registry",
    "redis-server": "redis-server",
}
UP_LIMIT = 240.0
JOURNAL = "/var/lib/snapsim/journal.log"

DESCRIPTION = """\
A lab on this machine: simulated hosts around a real Kubernetes API, to rehearse the platform's playbooks on.
Everything lives in namespaces below one process; nothing is visible from outside, and 'down' leaves nothing.
"""
EXAMPLES = """\
examples:
  lab/ctl up                                              one controller and two Sparks
  lab/ctl exec -- ansible-playbook -i inventories/lab playbooks/site.yml
  lab/ctl exec -- ssh -F "$PWD/.lab-ssh" spark-01         (see 'lab/ctl ssh')
  lab/ctl kubectl get pods -A
  lab/ctl fault stop spark-02                             pull the plug; 'start' puts it back
  lab/ctl --name second up --hosts controller             another lab beside the first
"""


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


# --- what the commands share ----------------------------------------------------------------------------------------


def need_root() -> None:
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes namespaces, mounts and network links; run it with sudo -E")


def supervisor_pid(lab: Lab) -> int | None:
    """PID of the process that holds the lab's namespaces, if the lab runs."""
    try:
        pid = int((lab.state / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"lab.supervisor" in command and str(lab.state).encode() in command else None


def running(lab: Lab) -> int:
    pid = supervisor_pid(lab)
    if pid is None:
        other = " (it ended; its files are still there, see 'lab/ctl logs')" if lab.state.exists() else ""
        raise LabError(f"lab {lab.name} is not running{other}; start it with: lab/ctl{name_option(lab)} up")
    return pid


def name_option(lab: Lab) -> str:
    return "" if lab.name == "lab" else f" --name {lab.name}"


@contextlib.contextmanager
def only_one(lab: Lab) -> Iterator[None]:
    """One up or down of a lab at a time."""
    lab.state.parent.mkdir(parents=True, exist_ok=True)
    path = lab.state.parent / f".{lab.name}.lock"
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat())
        except BlockingIOError:
            held = False
        if not held:
            raise LabError(f"another command is just starting or ending lab {lab.name}; try again")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # whoever opened it in the meantime sees that it is not the lock any more
            with contextlib.suppress(OSError):
                lab.state.parent.rmdir()  # only when no lab is left


# --- up -------------------------------------------------------------------------------------------------------------


def check_machine() -> None:
    missing = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    if missing:
        raise LabError(f"not installed: {', '.join(sorted(missing))}; scripts/setup.sh installs what the lab needs")
    netns.check_cgroups()


def prepare(lab: Lab) -> None:
    """Make or find what all labs share, and note where it is."""
    tools = build.ensure(say)
    base = rootfs.ensure(say)
    lab.bin, lab.stages, lab.downloads = str(tools.bin), str(tools.stages), str(tools.downloads)
    lab.rootfs = str(base.path)
    lab.wheels = str(wheels.ensure(base.facts["python"], say))


def lay_out(lab: Lab) -> None:
    lab.state.mkdir(parents=True, mode=0o755)
    for directory in ("logs", "home", "ready", "downloads", "registry"):
        (lab.state / directory).mkdir()
    pki.write(lab.pki, API_URL, [OUTSIDE, HOSTS_SIDE, *(host.address for host in lab.hosts)])
    pki.write_private(lab.kubeconfig, (lab.pki / "admin.kubeconfig").read_bytes())
    shutil.copy(Path(lab.downloads) / "checksums.json", lab.state / "checksums.json")
    hosts.lower_layers(lab)
    hosts.lay_out(lab)
    controlplane.write_configs(lab)
    lab.save()


def launch(lab: Lab) -> subprocess.Popen[bytes]:
    """Start the keeper; from here on the lab does not depend on us."""
    with open(lab.logs / "supervisor.log", "ab") as log:
        env = lab.environment(os.environ) | {"PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "lab.supervisor", "keep", "--state", str(lab.state)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=env,
            start_new_session=True,
        )


def not_ready(status: dict[str, Any]) -> list[str]:
    return [name for name, each in [*status["components"].items(), *status["hosts"].items()] if not each["ready"]]


def follow(lab: Lab, keeper: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Tell what becomes ready until all is."""
    started = time.monotonic()
    told: set[str] = set()
    status: dict[str, Any] | None = None
    while True:
        if keeper.poll() is not None:
            raise LabError(f"the supervisor ended while starting: {last_lines(lab.logs / 'supervisor.log')}")
        if lab.socket.exists():
            status = wire.ask(lab.socket, verb="status")
            for name, each in [*status["components"].items(), *status["hosts"].items()]:
                if each["ready"] and name not in told:
                    told.add(name)
                    say(f"{time.monotonic() - started:5.1f} s  {name} is ready")
            for name, each in status["hosts"].items():
                if each["last_end"] == "crash" and not each["running"]:
                    raise LabError(f"{name} does not boot: {last_lines(log_path(lab, name), 2)}{still_up(lab)}")
            if status["ready"]:
                return wire.ask(lab.socket, verb="status", memory=True)
        if time.monotonic() - started > UP_LIMIT:
            waiting = not_ready(status) if status else ["supervisor"]
            hints = "; ".join(f"{name}: {last_lines(log_path(lab, name), 1)}" for name in waiting)
            raise LabError(f"not ready after {UP_LIMIT:.0f} s: {hints}{still_up(lab)}")
        time.sleep(0.1)


def still_up(lab: Lab) -> str:
    return f" (the rest is up, to look at: lab/ctl{name_option(lab)} logs; then down)"


def command_up(lab: Lab, arguments: argparse.Namespace) -> int:
    need_root()
    check_machine()
    wanted = plan_hosts(arguments.hosts.split(",")) if arguments.hosts else None
    without = left_out(arguments.without)
    upstream = upstream_directory()
    with only_one(lab):
        if supervisor_pid(lab) is not None:
            return already_up(lab, [host.name for host in wanted] if wanted else None)
        begin = time.monotonic()
        remove(lab)
        lab = Lab(lab.name, lab.state, wanted or plan_hosts(DEFAULT_HOSTS), upstream=upstream, without=without)
        prepare(lab)
        prepared = time.monotonic()
        lay_out(lab)
        limits.acquire(lab.cgroup, lab.state)
        keeper = launch(lab)
        try:
            status = follow(lab, keeper)
        except KeyboardInterrupt:
            remove(lab)
            raise
        took = time.monotonic() - prepared
    before = f" (and {prepared - begin:.0f} s to make what it needs)" if prepared - begin > 2 else ""
    count = f"{len(lab.hosts)} host{'s' if len(lab.hosts) > 1 else ''}"
    say(f"lab {lab.name} is up after {took:.1f} s{before}: {count}, {status['memory_mib']} MiB")
    say(f"look around: lab/ctl{name_option(lab)} status | kubectl get nodes | exec -- bash | logs")
    return 0


def already_up(lab: Lab, wanted: list[str] | None) -> int:
    have = [host.name for host in lab.hosts]
    if wanted is not None and wanted != have:
        raise LabError(f"lab {lab.name} is up with {', '.join(have)}; take it down first to change its hosts")
    status = wire.ask(lab.socket, verb="status")
    waiting = not_ready(status)
    say(f"lab {lab.name} is up already, since {clock(status['uptime_s'])}: {', '.join(have)}")
    if waiting:
        say(f"not ready: {', '.join(waiting)}")
    return 0


def left_out(names: str) -> list[str]:
    """Components that are not to be started."""
    without = [name for name in names.split(",") if name]
    known = [component.name for component in controlplane.components(Lab("any", state_root() / "any"))]
    for name in without:
        if name not in known:
            raise LabError(f"no component {name!r}; there are {', '.join(known)}")
    return without


def upstream_directory() -> str:
    given = os.environ.get("LAB_UPSTREAM", "")
    if not given:
        return ""
    directory = Path(given).expanduser().resolve()
    if not (directory / "crds").is_dir():
        raise LabError(f"LAB_UPSTREAM={given}: no directory 'crds' in it")
    return str(directory)


# --- down -----------------------------------------------------------------------------------------------------------


def remove(lab: Lab) -> list[str]:
    """End the lab and remove all its traces; returns what could not be removed."""
    pid = supervisor_pid(lab)
    if pid is not None:
        processes.end_all(processes.holders(pid), kill_at_once=True)
    processes.end_all(processes.of_lab(lab.state))
    netns.clean_cgroups(lab.cgroup)
    if lab.state.exists():
        shutil.rmtree(lab.state, ignore_errors=True)
    limits.release(lab.cgroup)
    return remains(lab)


def remains(lab: Lab) -> list[str]:
    """Traces of the lab on this machine, each as a phrase."""
    found = [f"process {each.pid} ({each.command[:60]})" for each in processes.of_lab(lab.state)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [f"mount {line.split()[1]}" for line in mounts if f"{lab.state}/" in line]
    top = netns.cgroup_root() / lab.cgroup
    if top.exists():
        found.append(f"control group {top}")
    if lab.state.exists():
        found.append(f"directory {lab.state}")
    return found


def command_down(lab: Lab, _arguments: argparse.Namespace) -> int:
    need_root()
    with only_one(lab):
        if not lab.state.exists() and not remains(lab):
            say(f"lab {lab.name} is not there; nothing to do")
            return 0
        started = time.monotonic()
        left = remove(lab)
    if left:
        raise LabError(f"lab {lab.name} is down, but left behind: {'; '.join(left)}")
    took = time.monotonic() - started
    say(f"lab {lab.name} is down after {took:.1f} s; no process, mount, namespace, control group or file is left")
    return 0


# --- looking and working --------------------------------------------------------------------------------------------


def command_status(lab: Lab, arguments: argparse.Namespace) -> int:
    if supervisor_pid(lab) is None:
        if arguments.json:
            print(json.dumps({"name": lab.name, "state": str(lab.state), "running": False, "ready": False}, indent=1))
            return 1
        running(lab)
    status = wire.ask(lab.socket, verb="status", memory=True)
    status |= {"api": API_URL, "kubeconfig": str(lab.kubeconfig), "registry": f"{OUTSIDE}:5000", "mirror": OUTSIDE}
    if arguments.json:
        print(json.dumps(status, indent=1))
    else:
        print(table(status))
    return 0


def table(status: dict[str, Any]) -> str:
    rows = [("", "state", "ready after", "restarts", "MiB", "")]
    for name, each in status["hosts"].items():
        state = state_of(each, f"off ({each['last_end'] or 'stopped'})")
        place = each["address"] if each["network"] == "up" else "network cut"
        rows.append((name, state, seconds(each), str(each["boots"] - 1), str(each["memory_mib"]), place))
    for name, each in status["components"].items():
        state = state_of(each, "down")
        rows.append((name, state, seconds(each), str(each["restarts"]), str(each["memory_mib"]), each["last_end"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    head = f"lab {status['name']}: {'ready' if status['ready'] else 'not ready'}, up for {status['uptime_s']:.0f} s"
    return "\n".join([f"{head}, {status['memory_mib']} MiB, files in {status['state']}", "", *lines])


def state_of(each: dict[str, Any], otherwise: str) -> str:
    return ("ready" if each["ready"] else "starting") if each["running"] else otherwise


def seconds(each: dict[str, Any]) -> str:
    return "" if each["ready_after"] is None else f"{each['ready_after']:.1f} s"


def enter(lab: Lab, command: list[str]) -> int:
    """Become ``command`` in the lab's network; files and everything else stay the machine's."""
    need_root()
    pid = running(lab)
    arguments = ["nsenter", "-t", str(pid), "--net", "--", *command]
    os.execvpe("nsenter", arguments, lab.environment(os.environ))


def command_exec(lab: Lab, arguments: argparse.Namespace) -> int:
    command = arguments.rest[1:] if arguments.rest[:1] == ["--"] else arguments.rest
    return enter(lab, command or [os.environ.get("SHELL", "/bin/bash")])


def command_kubectl(lab: Lab, arguments: argparse.Namespace) -> int:
    return enter(lab, [f"{lab.bin}/kubectl", f"--kubeconfig={lab.kubeconfig}", *arguments.rest])


def command_ssh(lab: Lab, arguments: argparse.Namespace) -> int:
    host = lab.host(arguments.host)
    options = [f"UserKnownHostsFile={lab.state}/known_hosts", "StrictHostKeyChecking=yes", "ControlPath=none"]
    command = ["ssh", "-i", str(lab.state / "id"), *(part for option in options for part in ("-o", option))]
    return enter(lab, [*command, f"ops@{host.address}", *arguments.command])


def command_journal(lab: Lab, arguments: argparse.Namespace) -> int:
    running(lab)
    names = [lab.host(arguments.host).name] if arguments.host else [host.name for host in lab.hosts]
    texts = {name: wire.ask(lab.socket, verb="read", host=name, path=JOURNAL)["text"] or "" for name in names}
    for entry in merge_journals(texts):
        if arguments.json:
            print(json.dumps(entry))
        elif not arguments.mutating or entry.get("mutating"):
            print(journal_line(entry))
    return 0


def merge_journals(texts: dict[str, str]) -> list[dict[str, Any]]:
    """All hosts' entries in the order of time."""
    entries = []
    for name, text in texts.items():
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                entries.append({"host": name, **json.loads(line)})
    return sorted(entries, key=lambda entry: float(entry.get("t", 0)))


def journal_line(entry: dict[str, Any]) -> str:
    mark = "*" if entry.get("mutating") else " "
    command = " ".join(str(part) for part in entry.get("argv", []))
    result = f"rc={entry.get('rc', '?')} {entry.get('ms', '?')} ms"
    moment = time.strftime("%H:%M:%S", time.gmtime(float(entry.get("t", 0))))
    return f"{moment} {entry['host']:<12} {mark} {result:<16} {command}"


def log_path(lab: Lab, name: str) -> Path:
    host = any(host.name == name for host in lab.hosts)
    return lab.logs / (f"host-{name}.log" if host else f"{name}.log")


def last_lines(path: Path, count: int = 3) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return " / ".join(line.strip() for line in lines[-count:]) or "its log is empty"


def command_logs(lab: Lab, arguments: argparse.Namespace) -> int:
    if not lab.logs.is_dir():
        raise LabError(f"lab {lab.name} has no logs; it is not there")
    if not arguments.component:
        for path in sorted(lab.logs.glob("*.log")):
            print(f"{path.stat().st_size:>10}  {path}")
        return 0
    path = log_path(lab, arguments.component)
    if not path.is_file():
        have = ", ".join(sorted(each.stem for each in lab.logs.glob("*.log")))
        raise LabError(f"no log of {arguments.component!r}; there are {have}")
    follow_option = ["-F"] if arguments.follow else []
    os.execvp("tail", ["tail", "-n", str(arguments.lines), *follow_option, str(path)])


def command_fault(lab: Lab, arguments: argparse.Namespace) -> int:
    if not arguments.fault:
        print(faults.catalogue())
        return 0
    need_root()
    running(lab)
    say(faults.inject(lab, arguments.fault, arguments.arguments))
    return 0


def command_build(_lab: Lab, _arguments: argparse.Namespace) -> int:
    need_root()
    check_machine()
    prepare(Lab("build", state_root() / "build"))
    say("everything a lab needs is there")
    return 0


# --- entry ----------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="lab/ctl", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    main.add_argument(
        "--name",
        default=os.environ.get("TOKENLABS_LAB_NAME", "lab"),
        help="which lab (default: the one we are in, else 'lab')",
    )
    commands = main.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    up = add("up", command_up, "start the lab and wait until every host and the API answer")
    default = ",".join(DEFAULT_HOSTS)
    up.add_argument("--hosts", metavar="A,B,...", help=f"names; controller* are controllers (default {default})")
    up.add_argument("--without", metavar="A,B,...", default="", help="components to leave out, as world,gateway,kwok")
    add("down", command_down, "end the lab and verify that nothing of it is left")
    status = add("status", command_status, "show hosts and components")
    status.add_argument("--json", action="store_true", help="for scripts")
    add("exec", command_exec, "run '-- CMD ...' in the lab's network (without one: a shell)")
    add("kubectl", command_kubectl, "kubectl as the lab's administrator")
    ssh = add("ssh", command_ssh, "log in to a host as user ops")
    ssh.add_argument("host")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    journal = add(
        "journal", command_journal, "calls of snap, microk8s, nvidia-smi on the hosts (* = it changed something)"
    )
    journal.add_argument("host", nargs="?")
    journal.add_argument("--json", action="store_true", help="one JSON object a line")
    journal.add_argument("--mutating", action="store_true", help="only calls that changed something")
    fault = add("fault", command_fault, "break something (without a name: what can be broken)")
    fault.add_argument("fault", nargs="?", metavar="NAME")
    fault.add_argument("arguments", nargs="*")
    logs = add("logs", command_logs, "list logs, or show one")
    logs.add_argument("component", nargs="?")
    logs.add_argument("-n", "--lines", type=int, default=200)
    logs.add_argument("-f", "--follow", action="store_true")
    add("build", command_build, "make what all labs share (programs, root file system, wheels) without starting one")
    return main


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and what belongs to the command that exec or kubectl runs (whatever it looks like)."""
    position = 0
    while position < len(argv) and argv[position].startswith("-"):
        position += 2 if argv[position] == "--name" else 1
    if argv[position : position + 1] in (["exec"], ["kubectl"]):
        rest = argv[position + 1 :]
        if argv[position] == "kubectl" or rest not in (["-h"], ["--help"]):
            return argv[: position + 1], rest
    return argv, []


def main(argv: list[str] | None = None) -> int:
    ours, rest = split(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(ours)
    arguments.rest = rest
    try:
        return arguments.run(Lab.named(arguments.name), arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
