@echo off
rem Installs or upgrades by Helm; safe to run again. What follows goes to helm: -f values-production.yaml, --set ...
rem     deploy-helm.bat [--dry-run] [-f VALUES] [--set NAME=VALUE]...
rem The same kubectl and helm lines as deploy-helm.sh. It has not been run on Windows.
setlocal
cd /d "%~dp0"

set DRY=
set WORDS=
if "%~1"=="--dry-run" (
    set DRY=--dry-run=server
    shift /1
)
:words
if "%~1"=="" goto begin
set WORDS=%WORDS% %1
shift /1
goto words

:begin
kubectl cluster-info || goto stopped
rem Helm makes a namespace without labels: this one enforces Pod Security `restricted`.
kubectl apply %DRY% -f ../kubernetes/namespaces/00-restaurant-system.yaml || goto stopped
helm upgrade --install restaurant-management . --namespace restaurant-system --create-namespace --wait --timeout 15m %DRY% %WORDS% || goto stopped
exit /b 0

:stopped
echo Stopped at the line above. What ran before goes on running. Its message names the value to change, or look here: 1>&2
echo     kubectl get pods --namespace restaurant-system 1>&2
echo     kubectl logs --selector app.kubernetes.io/name=install --namespace restaurant-system --all-containers 1>&2
echo     helm history restaurant-management --namespace restaurant-system   (helm rollback goes back, Helm 4 with --force-conflicts) 1>&2
exit /b 1
