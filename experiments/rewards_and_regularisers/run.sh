#!/usr/bin/env bash
# Reward x regularizer x opponent in LSP: 18 arms of three seeds, two jobs at a time. Started again, it goes on.
#     experiments/rewards_and_regularisers/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
"${1:-python}" run.py -m hydra/launcher=joblib hydra.launcher.n_jobs=2 sweep=rewards_and_regularisers \
    seed=0,1,2 steps=60 checkpoint.every=20 checkpoint.keep_every=0 \
    reward=rm,verifier,selfjudge regularizer=none,kl_forward,kl_reverse opponent=latest,uniform
