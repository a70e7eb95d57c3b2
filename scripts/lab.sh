#!/usr/bin/env bash
# make lab: start the lab, run the whole rollout on it, and say how to look around.
#   scripts/lab.sh [NAME]
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
name=${1:-lab}
ctl=(lab/ctl --name "$name")

"${ctl[@]}" up
start=$SECONDS
recap=$(mktemp)
trap 'rm -f "$recap"' EXIT
"${ctl[@]}" exec -- ansible-playbook -i inventories/lab playbooks/site.yml | tee "$recap"
changed=$(awk -F'changed=' '/ok=.*changed=/ {split($2, n, " "); total += n[1]} END {print total + 0}' "$recap")
if [ "$changed" = 0 ]; then
  printf '\nThe lab was up and converged already: the rollout changed nothing'
else
  printf '\nThe platform is up and verified'
fi
printf ' (%d s).\n\n' $((SECONDS - start))

address=$("${ctl[@]}" kubectl -n token-labs get gateway token-labs-gateway -o 'jsonpath={.status.addresses[0].value}')
state=$("${ctl[@]}" status --json | python -c 'import json, sys; print(json.load(sys.stdin)["state"])')
prefix="lab/ctl"
[ "$name" = lab ] || prefix="lab/ctl --name $name"
cat <<END
Gateway           http://$address   (inside the lab's network: $prefix exec -- ...)
Tenants' keys     $state/credentials/   (made in this run, one file a tenant)

Three things to try:
  $prefix exec -- sh -c 'curl -s http://$address/v1/models -H "Authorization: Bearer \$(cat $state/credentials/demo-pro.key)"'
  $prefix kubectl get nodes,gateways,httproutes,authpolicies -A
  $prefix exec -- ansible-playbook -i inventories/lab playbooks/verify.yml

make lab-down stops it; nothing of it stays.
END
