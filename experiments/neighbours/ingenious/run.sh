#!/usr/bin/env bash
# INGENIOUS: a quarter of a redundant, skewed pool by facility location, against a random quarter and all of it. Five seeds.
# Started again, it goes on.
#     experiments/neighbours/ingenious/run.sh [python]       JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python}
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" experiment=ingenious seed=0,1,2,3,4 eval.every=30 checkpoint.every=30 checkpoint.keep=1)
"$python" run.py -m "${jobs[@]}" players.nature.strategy.share=0.25 sweep=neighbours/ingenious/facility
"$python" run.py -m "${jobs[@]}" data=uniform players.nature.size=188,750 sweep=neighbours/ingenious/random
