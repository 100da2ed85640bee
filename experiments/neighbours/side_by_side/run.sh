#!/usr/bin/env bash
# What can be compared on the embedded model at equal tokens: Language Self-Play, right answers, and four neighbours. Five seeds.
# Started again, it goes on.
#     experiments/neighbours/side_by_side/run.sh [python]    JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python} place=multirun/neighbours/side_by_side
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" seed=0,1,2,3,4 checkpoint.every=1000 checkpoint.keep=1)
"$python" run.py -m "${jobs[@]}" game=lsp steps=40 eval.every=4 sweep=neighbours/side_by_side/lsp
"$python" run.py -m "${jobs[@]}" experiment=points data=uniform players.teacher.answer.share=0 steps=80 eval.every=8 sweep=neighbours/side_by_side/sft
"$python" run.py -m "${jobs[@]}" experiment=points steps=80 eval.every=8 sweep=neighbours/side_by_side/points
"$python" run.py -m "${jobs[@]}" experiment=ingenious steps=80 eval.every=8 sweep=neighbours/side_by_side/ingenious
"$python" run.py -m "${jobs[@]}" experiment=lfr steps=240 eval.every=24 '~extra_evals.likelihood' sweep=neighbours/side_by_side/lfr
"$python" run.py -m "${jobs[@]}" experiment=arithmetic_self_training task.families=null steps=60 eval.every=6 \
    update.parts.preferences.optimizer.lr=3e-4 sweep=neighbours/side_by_side/self_training
"$python" run.py -m "${jobs[@]}" experiment=multiagent_finetuning eval=heldout '~eval.samples' '~eval.players' steps=50 eval.every=5 sweep=neighbours/side_by_side/multiagent
