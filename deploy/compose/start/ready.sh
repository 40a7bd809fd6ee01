#!/usr/bin/env bash
# Does a part of ours do its work now? `ready.sh HOST PORT`. By bash itself: an interpreter each few seconds costs more.
set -euo pipefail
exec 3<>"/dev/tcp/$1/$2"
printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
mapfile -t answer <&3 # to its end, or the part would say that its caller went away
[[ "${answer[0]}" == *' 200 '* ]] || { echo "${answer[-1]}"; exit 1; }
