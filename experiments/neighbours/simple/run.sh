#!/usr/bin/env bash
# SimPLE: self-training on edited labels, on voted ones and on all answers, from a briefly trained start and from the untouched model.
# Five seeds. Started again, it goes on.
#     experiments/neighbours/simple/run.sh [python]          JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python} place=multirun/neighbours/simple
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" seed=0,1,2,3,4 checkpoint.every=20 checkpoint.keep=1)
start=$place/start/0/checkpoints/step-000004
[ -d $start ] || "$python" run.py -m game=demonstrations game.answers=0 '~seats.solver' reward=none update=sft update.optimizer.lr=3e-4 \
    'task.families=[compare]' episodes=192 steps=4 seed=100 eval=none sweep=neighbours/simple/start
for start in asset:tiny $start; do
    name=$([ $start = asset:tiny ] && echo untouched || echo trained)
    "$python" run.py -m "${jobs[@]}" experiment=simple task.per_cell=20 player.path=$start reward=edited_labels,agreement sweep=neighbours/simple/$name
    "$python" run.py -m "${jobs[@]}" experiment=simple task.per_cell=20 player.path=$start \
        update.keep._target_=selfplay.updates.imitation.above +update.keep.threshold=-1 sweep=neighbours/simple/$name-all
done
