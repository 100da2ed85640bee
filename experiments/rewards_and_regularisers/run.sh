#!/usr/bin/env bash
# Reward x regularizer x opponent: in LSP, 18 arms of three seeds and 60 steps; then in LSP-Zero with the reward model, the game that
# degenerates, one arm of three seeds and 200 steps beside the paper table's (regularizer=kl_reverse: make paper-table).
# Two jobs at a time. Started again, it goes on.
#     experiments/rewards_and_regularisers/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
jobs=(hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=0,1,2 checkpoint.every=20 checkpoint.keep_every=0)
"$python" run.py -m "${jobs[@]}" sweep=rewards_and_regularisers/lsp steps=60 \
    reward=rm,verifier,selfjudge regularizer=none,kl_forward,kl_reverse opponent=latest,uniform
"$python" run.py -m "${jobs[@]}" sweep=rewards_and_regularisers/lsp_zero steps=200 game=lsp_zero eval.every=25 regularizer=none
