#!/usr/bin/env bash
# POINTS: which fifth of a noisy set to learn from, and the soup of two models. Five seeds. Started again, it goes on.
#     experiments/neighbours/points/run.sh [python]          JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python} place=multirun/neighbours/points
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" seed=0,1,2,3,4 eval.every=30 checkpoint.every=30 checkpoint.keep=1)
for noise in swapped habitual; do
    teacher=(experiment=points "players.teacher.answer._target_=selfplay.tasks.noise.$noise")
    [ $noise = habitual ] && teacher+=(players.teacher.answer.share=0.5)
    "$python" run.py -m "${jobs[@]}" "${teacher[@]}" players.nature.strategy.share=0.2,0.4 sweep=neighbours/points/$noise-lowest
    "$python" run.py -m "${jobs[@]}" "${teacher[@]}" data=uniform players.nature.size=205,1024 sweep=neighbours/points/$noise-random
done
"$python" run.py -m "${jobs[@]}" experiment=points players.teacher.answer.share=0 data=uniform sweep=neighbours/points/clean
# the soup: two models that learnt half of the families each, from right answers
half=(experiment=points players.teacher.answer.share=0 data=none)
"$python" run.py -m "${jobs[@]}" "${half[@]}" 'task.families=[add,subtract,compare,largest,sort,reverse]' sweep=neighbours/points/first
"$python" run.py -m "${jobs[@]}" "${half[@]}" 'task.families=[count,length,last,shift,repeat,remove]' sweep=neighbours/points/second
"$python" run.py -m "${jobs[@]}" "${half[@]}" sweep=neighbours/points/both
for seed in 0 1 2 3 4; do
    [ -d $place/soups/$seed ] || "$python" -m selfplay soup $place/first/$seed $place/second/$seed --out $place/soups/$seed
    "$python" run.py -m experiment=points data=none steps=0 seed=$seed player.path=$place/soups/$seed sweep=neighbours/points/soup-$seed
done
