@echo off
rem Everything by kubectl, in the order in which it is needed; safe to run again.
rem     deploy-kubernetes.bat [--dry-run]
rem The same kubectl and helm lines as deploy-kubernetes.sh. It has not been run on Windows.
setlocal
cd /d "%~dp0"

set DRY=
if "%~1"=="" goto begin
if "%~1"=="--dry-run" set DRY=--dry-run=client
if "%~1"=="--dry-run" goto begin
echo usage: deploy-kubernetes.bat [--dry-run]
exit /b 2

:begin
kubectl cluster-info || goto stopped
kubectl apply %DRY% -f namespaces/ || goto stopped
kubectl apply %DRY% -f configmaps/ || goto stopped
kubectl apply %DRY% -f secrets/ || goto stopped
rem The passwords: made once, by the chart, and kept. Without helm: README.md.
if not defined DRY helm template restaurant-management ../helm --namespace restaurant-system --dry-run=server --is-upgrade --set install.enabled=false --show-only templates/secrets.yaml | kubectl apply --server-side --field-manager=brigade-secrets --force-conflicts -f - || goto stopped
kubectl apply %DRY% -f deployments/ || goto stopped
kubectl apply %DRY% -f services/ || goto stopped
kubectl apply %DRY% -f ingress/ || goto stopped
kubectl apply %DRY% -f monitoring/ || goto stopped
if not defined DRY kubectl rollout status deployment/gateway-deployment --namespace restaurant-system --timeout 15m || goto stopped

echo Done. README.md says how to make the first account and where to look.
exit /b 0

:stopped
echo Stopped at the line above. What was applied before it stays. Mend what its message says and run this again. 1>&2
echo     No cluster: kubectl config current-context. Forbidden: this needs a cluster's administrator. 1>&2
exit /b 1
