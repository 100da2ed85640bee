#!/usr/bin/env bash
# The experiments of experiments/neighbours, one after the other, and their tables. Started again, it goes on where it stopped.
#     experiments/neighbours/run.sh [python [systems]]       JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
systems=${2:-points reverse_gen ingenious lfr arithmetic_self_training multiagent_finetuning simple lance soft side_by_side offline_q}
for system in $systems; do
    "experiments/neighbours/$system/run.sh" "$python"
    if [ -f "experiments/neighbours/$system/summarise.py" ]; then
        "$python" "experiments/neighbours/$system/summarise.py" "multirun/$system"
    else
        "$python" experiments/neighbours/summarise.py "$system" "multirun/neighbours/$system"
    fi
done
