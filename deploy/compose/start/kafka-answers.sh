#!/usr/bin/env bash
# Health of Kafka: which versions do you speak? Asked in its own protocol, for a JVM would cost two seconds each time.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/9092
# Length 10, ApiVersions (18), version 0, correlation id 7, no client id.
printf '\0\0\0\x0a\0\x12\0\0\0\0\0\x07\xff\xff' >&3
# Its length, the correlation id again, no error.
[[ "$(timeout 3 head -c 10 <&3 | od -An -tx1 | tr -d ' \n')" == ????????000000070000 ]]
