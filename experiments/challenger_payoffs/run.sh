#!/usr/bin/env bash
# Every Challenger payoff with the exact verifier: 8 arms of three seeds, two jobs at a time. Started again, it goes on;
# with more seeds (seed=0,1,2,3,4), it adds theirs.
#     experiments/challenger_payoffs/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
jobs=(hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=0,1,2 reward=verifier steps=100 checkpoint.every=25 checkpoint.keep_every=0)
"$python" run.py -m "${jobs[@]}" challenger=lsp game.quality_weight=1.0,0.2 sweep=challenger_payoffs/lsp
"$python" run.py -m "${jobs[@]}" quality=none challenger=lsp_zero,absolute_zero,r_zero,sqlm,spice sweep=challenger_payoffs/rivals
"$python" run.py -m "${jobs[@]}" quality=none game=dataset sweep=challenger_payoffs/data
