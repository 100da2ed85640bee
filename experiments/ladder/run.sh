#!/usr/bin/env bash
# Self-play against data on a ladder of levels: nine arms of six seeds, read where each has generated 200,000 tokens, and
# 400,000. Started again, it goes on.
#     experiments/ladder/run.sh [python]       JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
arm() { # name, options
    "$python" run.py -m experiment=ladder hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" seed=1,2,3,4,5,6 eval.every=5 \
        checkpoint.every=200 checkpoint.keep=1 "${@:2}" sweep="ladder/$1"
}
grpo=(game=dataset update=grpo regularizer=kl_forward)
arm data "${grpo[@]}" steps=95
arm play challenger=spice steps=125
arm data_same game=dataset steps=95
arm data_low "${grpo[@]}" 'task.levels=[1,2]' steps=280
arm play_vote challenger=spice reward=agreement steps=125
arm play_r_zero challenger=r_zero steps=125
arm play_zero_sum challenger=lsp_zero steps=100
arm play_league challenger=spice opponent=uniform steps=125
arm data_chosen "${grpo[@]}" data=least_solved players.nature.size=4096 steps=95
