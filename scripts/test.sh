#!/usr/bin/env bash
# Runs the project's tests in steps, cheapest first, stops at the first that fails, and ends with a summary.
#   scripts/test.sh all|fast|long|STEP...
# shellcheck disable=SC2317  # the steps are called by name
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PATH="$PWD/.venv/bin:$PATH" PYTHONDONTWRITEBYTECODE=1 ANSIBLE_NOCOLOR=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
summary=()

lint() {
  ruff check . && ruff format --check lab plugins tests &&
  mypy --no-error-summary lab &&
  mypy --no-error-summary -p ansible_collections.tokenlabs.platform.plugins.module_utils &&
  yamllint --strict . && ansible-lint --strict --nocolor -q &&
  shellcheck scripts/*.sh .ci/run
}

unit() { pytest -q -m "not long" tests/unit; }

artifact() {  # the tarball that would be published, installed into an empty path
  ansible-galaxy collection build -f --output-path "$work" . >/dev/null &&
  ANSIBLE_COLLECTIONS_PATH="$work/c" ansible-galaxy collection install --offline -f -p "$work/c" "$work"/tokenlabs-platform-*.tar.gz >/dev/null &&
  installed="$work/c/ansible_collections/tokenlabs/platform"
}

dependencies() {  # ansible-test looks for the collections that ours builds on beside it only
  local site
  site=$(python -c 'import ansible_collections; print(list(ansible_collections.__path__)[0])') &&
  mkdir -p "$work/c/ansible_collections/kubernetes" && cp -r "$site/kubernetes/core" "$work/c/ansible_collections/kubernetes/"
}

sanity() {
  artifact && dependencies || return 1
  # ansible-test fetches get-pip for its environments; Python's own ensurepip does the same without a download.
  local cache=~/.ansible/test/cache
  mkdir -p "$cache"
  printf 'import ensurepip\nensurepip.bootstrap(default_pip=True)\n' >"$cache/get_pip_24_2.py"
  (cd "$installed" && git init -q . && ansible-test sanity --color no --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" --skip-test pslint) &&
  printf '[galaxy-importer]\nRUN_ANSIBLE_TEST=False\nOFFLINE_ANSIBLE_LINT=True\nCHECK_REQUIRED_TAGS=True\n' >"$work/importer.cfg" &&
  (cd "$work" && GALAXY_IMPORTER_CONFIG="$work/importer.cfg" python -m galaxy_importer.main "$work"/tokenlabs-platform-*.tar.gz >"$work/importer.log" 2>&1 ||
    { tail -30 "$work/importer.log"; exit 1; }) &&
  (cd "$work" && ANSIBLE_COLLECTIONS_PATH="$work/c" ansible-playbook --syntax-check -i localhost, tokenlabs.platform.site) &&
  antsibull-changelog lint
}

integration() { pytest -q -m "not long" tests/integration; }

# Not in one process with the modules: where Ansible's control side is loaded, modules' warnings go to its display.
contract() { pytest -q -m "not long" tests/contract; }

labtests() { pytest -q -m "not long" tests/lab; }

scenarios() { scripts/scenarios.sh default cluster; }

long() {
  pytest -q -m long tests/unit tests/integration tests/lab && LONG=1 scripts/scenarios.sh default lifecycle cluster ha models &&
  pytest -q -rP -m long tests/rollout
}

finish() {
  printf '\n%-12s %-6s %s\n' step result seconds
  printf '%s\n' "${summary[@]}"
  exit "$1"
}

step() {
  printf '\n==> %s\n' "$1"
  local start=$SECONDS
  if "$1"; then
    summary+=("$(printf '%-12s %-6s %d' "$1" ok $((SECONDS - start)))")
  else
    summary+=("$(printf '%-12s %-6s %d' "$1" FAILED $((SECONDS - start)))")
    finish 1
  fi
}

case "${1:-all}" in
  all) set -- lint unit sanity integration contract labtests scenarios ;;
  fast) set -- lint unit ;;
esac
for name in "$@"; do step "$name"; done
finish 0
