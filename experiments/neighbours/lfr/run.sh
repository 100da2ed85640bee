#!/usr/bin/env bash
# LFR: phases with and without the easiest questions, against all questions and the hardest alone. Five seeds. Started again, it goes on.
#     experiments/neighbours/lfr/run.sh [python]             JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python}
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" experiment=lfr seed=0,1,2,3,4 checkpoint.every=80 checkpoint.keep=1)
"$python" run.py -m "${jobs[@]}" data=focus,uniform sweep=neighbours/lfr/phases
"$python" run.py -m "${jobs[@]}" data=highest players.nature.every=20 players.nature.strategy.who=learner players.nature.strategy.share=0.5 sweep=neighbours/lfr/highest
