#!/usr/bin/env bash
# Installs or upgrades by Helm; safe to run again. What follows goes to helm: -f values-production.yaml, --set …
#     deploy-helm.sh [--dry-run] [-f VALUES] [--set NAME=VALUE]…
# deploy-helm.bat has the same kubectl and helm lines; a test compares them.
set -euo pipefail
cd "$(dirname "$0")"

dry=
[ "${1:-}" = --dry-run ] && { dry=--dry-run=server; shift; }

stopped() {
    echo "Stopped at: $1" >&2
    echo "What ran before goes on running. The message above names the value to change, or look here:" >&2
    echo "    kubectl get pods --namespace restaurant-system" >&2
    echo "    kubectl logs --selector app.kubernetes.io/name=install --namespace restaurant-system --all-containers" >&2
    echo "    helm history restaurant-management --namespace restaurant-system   # helm rollback goes back, Helm 4 with --force-conflicts" >&2
    exit 1
}
trap 'stopped "$BASH_COMMAND"' ERR

kubectl cluster-info
# Helm makes a namespace without labels: this one enforces Pod Security `restricted`.
kubectl apply $dry -f ../kubernetes/namespaces/00-restaurant-system.yaml
helm upgrade --install restaurant-management . --namespace restaurant-system --create-namespace --wait --timeout 15m $dry "$@"
