#!/usr/bin/env bash
# Multiagent finetuning: three learners that vote, against one learner in their three seats; from a start whose majority is better than
# its single answers, and from the untouched model. Five seeds. Started again, it goes on.
#     experiments/neighbours/multiagent_finetuning/run.sh [python]     JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python} place=multirun/neighbours/multiagent_finetuning
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" seed=0,1,2,3,4 checkpoint.every=40 checkpoint.keep=1)
[ -d $place/start/0/checkpoints/step-000010 ] || "$python" run.py -m game=demonstrations game.answers=0 '~seats.solver' reward=none \
    update=sft update.optimizer.lr=3e-4 episodes=192 steps=10 seed=100 eval=none sweep=neighbours/multiagent_finetuning/start
alone=(seats.generator_2=learner seats.generator_3=learner learners.second=null learners.third=null 'eval.players=[learner]')
for start in asset:tiny $place/start/0/checkpoints/step-000010; do
    name=$([ $start = asset:tiny ] && echo untouched || echo trained)
    "$python" run.py -m "${jobs[@]}" experiment=multiagent_finetuning player.path=$start sweep=neighbours/multiagent_finetuning/$name-three
    "$python" run.py -m "${jobs[@]}" experiment=multiagent_finetuning player.path=$start "${alone[@]}" sweep=neighbours/multiagent_finetuning/$name-one
done
