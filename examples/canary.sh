#!/bin/sh
# Rolls a job file out as far as its canaries, has a look at them with a command of your own, and lets the rest follow or
# takes it back. The exit code says what came of it: 0 completed, 2 failed, 3 rolled back, 4 canceled, 5 out of time, 64
# called in a wrong way.
#
#   examples/canary.sh examples/web.toml ./smoke-test
set -u
if [ $# -lt 2 ]; then
    echo "usage: $0 <job file> <command that tests the canary>..." >&2
    exit 64
fi
file=$1
shift

begun=$(orchestrator job run "$file" --detach --output json) || exit
# By its id: the last deployment of the job may soon be another one, and be it the rollback of this.
id=$(printf %s "$begun" | sed -n 's/.*"deployment_id": *"\([^"]*\)".*/\1/p')
orchestrator deployment watch "$id" --until promotion --timeout 10m || exit
# What runs already, or promotes itself, waits for nobody.
orchestrator deployment status "$id" --output json | grep -q '"waiting_on": *"promotion"' || exit 0
if "$@"; then
    orchestrator deployment promote "$id" || exit
else
    orchestrator deployment fail "$id" --reason "the smoke test failed" || exit
fi
exec orchestrator deployment watch "$id" --timeout 30m
