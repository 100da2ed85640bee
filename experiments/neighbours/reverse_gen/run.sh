#!/usr/bin/env bash
# ReverseGen: a Challenger that finds the target's failures, then SFT on what it found. Five seeds. Started again, it goes on.
#     experiments/neighbours/reverse_gen/run.sh [python]     JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python} place=multirun/neighbours/reverse_gen
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" checkpoint.every=60 checkpoint.keep=1)
"$python" run.py -m "${jobs[@]}" experiment=reverse_gen seed=0,1,2,3,4 challenger=reverse_gen,absolute_zero sweep=neighbours/reverse_gen/explore
sft=(game=demonstrations game.answers=0 '~seats.solver' reward=none update=sft update.optimizer.lr=3e-4 steps=30 episodes=192 data=uniform eval.every=30)
"$python" run.py -m "${jobs[@]}" "${sft[@]}" seed=0,1,2,3,4 sweep=neighbours/reverse_gen/uniform
for seed in 0 1 2 3 4; do # the jobs of `explore` are numbered seed by seed, with the two payoffs of each
    found=(task=transcripts "task.path=$place/explore/$((2 * seed))" task.payoff_from=1)
    "$python" run.py -m "${sft[@]}" "${found[@]}" "seed=$seed" sweep=neighbours/reverse_gen/found-$seed
done
