#!/usr/bin/env bash
# Runs scenarios, each on a lab of its own: what molecule/NAME says, then tests/scenarios/test_NAME*.py on the same lab.
# Those marked `long` run with LONG=1 only. The hosts are those of inventories/NAME, or of inventories/lab.
#   [LONG=1] scripts/scenarios.sh NAME...
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" ANSIBLE_NOCOLOR=1 PY_COLORS=0 NO_COLOR=1
export ANSIBLE_CONFIG=$PWD/ansible.cfg ANSIBLE_COLLECTIONS_PATH=$PWD/collections MOLECULE_GLOB="molecule/*/molecule.yml"
marks=(-m "not long")
[ -z "${LONG:-}" ] || marks=()

for scenario in "$@"; do
  name="test-$scenario-$$"
  trap 'lab/ctl --name "$name" down' EXIT
  INVENTORY="inventories/$scenario"
  [ -d "$INVENTORY" ] || INVENTORY=inventories/lab
  export INVENTORY
  hosts=$(ansible all -i "$INVENTORY" --list-hosts | tail -n +2 | xargs | tr ' ' ,)
  lab/ctl --name "$name" up --hosts "$hosts"
  if [ -f "molecule/$scenario/molecule.yml" ]; then
    lab/ctl --name "$name" exec -- molecule test -s "$scenario" --destroy never
  fi
  # In the order of their names: the last ones leave another cluster. compgen does not sort.
  mapfile -t tests < <(compgen -G "tests/scenarios/test_${scenario}_*.py" | sort)
  if [ ${#tests[@]} -gt 0 ]; then
    lab/ctl --name "$name" exec -- pytest -v -x --durations=5 "${tests[@]}" "${marks[@]}"
  fi
  lab/ctl --name "$name" down
  trap - EXIT
done
