#!/usr/bin/env bash
# Everything by kubectl, in the order in which it is needed; safe to run again.
#     deploy-kubernetes.sh [--dry-run]
# deploy-kubernetes.bat has the same kubectl and helm lines; a test compares them.
set -euo pipefail
cd "$(dirname "$0")"

dry=
case "${1:-}" in
    "") ;;
    --dry-run) dry=--dry-run=client ;;
    *) echo "usage: deploy-kubernetes.sh [--dry-run]" >&2; exit 2 ;;
esac

stopped() {
    echo "Stopped at: $1" >&2
    echo "What was applied before it stays. Mend what the message above says and run this again." >&2
    echo "    No cluster: kubectl config current-context. Forbidden: this needs a cluster's administrator." >&2
    exit 1
}
trap 'stopped "$BASH_COMMAND"' ERR

kubectl cluster-info
kubectl apply $dry -f namespaces/
kubectl apply $dry -f configmaps/
kubectl apply $dry -f secrets/
# The passwords: made once, by the chart, and kept. Without helm: README.md.
[ -n "$dry" ] || helm template restaurant-management ../helm --namespace restaurant-system --dry-run=server --is-upgrade --set install.enabled=false --show-only templates/secrets.yaml | kubectl apply --server-side --field-manager=brigade-secrets --force-conflicts -f -
kubectl apply $dry -f deployments/
kubectl apply $dry -f services/
kubectl apply $dry -f ingress/
kubectl apply $dry -f monitoring/
[ -n "$dry" ] || kubectl rollout status deployment/gateway-deployment --namespace restaurant-system --timeout 15m

echo "Done. README.md says how to make the first account and where to look."
