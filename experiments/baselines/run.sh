#!/usr/bin/env bash
# Data-driven methods on the embedded model, for the table with the self-play runs of experiments/paper_table (make paper-table, which
# must have been run before). First a learning rate for each method, on a seed that is not used again; then five seeds at the best one.
# Two jobs at a time. Started again, it goes on.
#     experiments/baselines/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
jobs=(hydra/launcher=joblib hydra.launcher.n_jobs=2 eval.every=25 checkpoint.every=25 checkpoint.keep_every=0)
sft=(game=demonstrations game.answers=0 '~seats.solver' reward=none update=sft episodes=256) # as many replies a step as the others
data=(game=dataset reward=rm)
rates=(seed=9 steps=75 update.optimizer.lr=3e-5,1e-4,3e-4)
"$python" run.py -m "${jobs[@]}" "${sft[@]}" "${rates[@]}" sweep=baselines/rates/sft
"$python" run.py -m "${jobs[@]}" "${data[@]}" "${rates[@]}" update=rejection,dpo sweep=baselines/rates/data
five=(seed=0,1,2,3,4 steps=100)
"$python" run.py -m "${jobs[@]}" "${sft[@]}" "${five[@]}" update.optimizer.lr=3e-4 sweep=baselines/sft
"$python" run.py -m "${jobs[@]}" "${data[@]}" "${five[@]}" update=rejection update.optimizer.lr=1e-4 sweep=baselines/rejection
"$python" run.py -m "${jobs[@]}" "${data[@]}" "${five[@]}" update=dpo update.optimizer.lr=3e-4 sweep=baselines/dpo
