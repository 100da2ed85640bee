#!/usr/bin/env bash
# The comparison of all systems (side_by_side), or the studies of single ones, and their tables. Started again, it goes on where it stopped.
#     experiments/neighbours/run.sh [python]                   all systems side by side
#     experiments/neighbours/run.sh python "points lance"      the studies of these; or "all"
# JOBS=1 for one job at a time.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python} systems=${2:-side_by_side}
[ "$systems" != all ] || systems=$(cd experiments/neighbours && dirname -- */run.sh | tr '\n' ' ')
for system in $systems; do
    if [ ! -x "experiments/neighbours/$system/run.sh" ]; then
        echo "error: '$system' is no system; choose among: all $(cd experiments/neighbours && dirname -- */run.sh | tr '\n' ' ')" >&2
        exit 1
    fi
done
for system in $systems; do
    "experiments/neighbours/$system/run.sh" "$python"
    if [ -f "experiments/neighbours/$system/summarise.py" ]; then
        "$python" "experiments/neighbours/$system/summarise.py" "multirun/$system"
    else
        "$python" experiments/neighbours/summarise.py "$system" "multirun/neighbours/$system"
    fi
done
