#!/usr/bin/env bash
# Kafka as one broker and controller, of any image that has its jars in /opt/kafka/libs.
set -euo pipefail
java=(java -Dorg.apache.logging.log4j.level=WARN -Dorg.slf4j.simpleLogger.defaultLogLevel=warn
    -Dorg.slf4j.simpleLogger.showDateTime=true -cp '/opt/kafka/libs/*')

if [ ! -e /data/log/meta.properties ]; then
    cluster="$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=')"
    "${java[@]}" kafka.tools.StorageTool format -t "$cluster" -c /config/server.properties
fi
# The archive of classes halves the time of later starts.
exec "${java[0]}" -Xms256m -Xmx512m -XX:+UseSerialGC \
    -XX:+UnlockDiagnosticVMOptions -XX:+AllowArchivingWithJavaAgent \
    -XX:+AutoCreateSharedArchive -XX:SharedArchiveFile=/data/classes.jsa -Xlog:cds=off -Xlog:cds+dynamic=off \
    -javaagent:/java/jmx_prometheus_javaagent.jar=9109:/config/kafka-metrics.yml \
    "${java[@]:1}" kafka.Kafka /config/server.properties
