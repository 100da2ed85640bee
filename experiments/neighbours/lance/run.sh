#!/usr/bin/env bash
# LANCE: reviewed data by SFT and DPO, by SFT alone, and everything that is written without review. Five seeds. Started again, it goes on.
#     experiments/neighbours/lance/run.sh [python]           JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python}
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" experiment=lance seed=0,1,2,3,4 eval.every=30 checkpoint.every=30 checkpoint.keep=1)
"$python" run.py -m "${jobs[@]}" sweep=neighbours/lance/both
"$python" run.py -m "${jobs[@]}" '~update.parts.preferences' update.parts.sft.keep.threshold=5,-1 sweep=neighbours/lance/sft
