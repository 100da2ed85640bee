#!/usr/bin/env bash
# When does self-play fall, and which logged measure says so in advance? 64 runs of 60 steps: eight settings, of which the
# seeds 0 to 3 make the rule and the seeds 4 to 7 test it. Started again, it goes on.
#     experiments/stability/run.sh [python]       JOBS=2 for two jobs at a time
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-1}")
size=(reward=rm steps=60 episodes=8 game.answers=4 task.per_cell=4 eval.every=5)
keep=(checkpoint.every=5 checkpoint.keep=1 checkpoint.keep_every=5) # whatever step a rule chooses is there to go on from
lr=update.optimizer.lr

sweep() { # part, seeds, name of the setting, its options
    "$python" run.py -m "${jobs[@]}" "${size[@]}" "${keep[@]}" "seed=$2" "sweep=stability/$1/$3" "${@:4}"
}

for part in train test; do
    [ $part = train ] && seeds=0,1,2,3 || seeds=4,5,6,7
    for rate in 3e-4 6e-4 1e-3; do
        sweep $part $seeds "lsp_zero-$rate" game=lsp_zero $lr=$rate
        sweep $part $seeds "lsp-$rate" game=lsp $lr=$rate
    done
    sweep $part $seeds lsp-6e-4-quality game=lsp $lr=6e-4 game.quality_weight=0.3
    sweep $part $seeds lsp_zero-6e-4-beta game=lsp_zero $lr=6e-4 regularizer.beta=0.2
done
