#!/usr/bin/env bash
# How many questions is self-play worth? GRPO on n distinct questions against Language Self-Play with none, at equal tokens:
# 13 arms of five seeds, read where each has generated 100,000 tokens. Started again, it goes on.
#     experiments/data_equivalent/run.sh [python]       JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python} place=multirun/data_equivalent
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" seed=0,1,2,3,4 eval.every=5)
ends=(checkpoint.every=200 checkpoint.keep=1)
halves=(checkpoint.keep=1 checkpoint.every=55 checkpoint.keep_every=55) # the second stages begin at step 55, or 32 of self-play
grpo=(experiment=table_grpo steps=115)
half=checkpoints/step-0000
six='task.families=[add,subtract,compare,largest,sort,reverse]'

"$python" run.py -m "${jobs[@]}" game=lsp steps=80 checkpoint.keep=1 checkpoint.every=32 checkpoint.keep_every=32 sweep=data_equivalent/lsp
"$python" run.py -m "${jobs[@]}" "${grpo[@]}" "${halves[@]}" sweep=data_equivalent/all
for count in 16 64 256 1024 4096; do
    "$python" run.py -m "${jobs[@]}" "${grpo[@]}" "${ends[@]}" data=uniform players.nature.size=$count sweep=data_equivalent/$count
done
"$python" run.py -m "${jobs[@]}" "${grpo[@]}" "${halves[@]}" 'task.levels=[1,2]' sweep=data_equivalent/levels
"$python" run.py -m "${jobs[@]}" "${grpo[@]}" "${halves[@]}" "$six" sweep=data_equivalent/families
for first in all levels families; do
    "$python" run.py -m "${jobs[@]}" "${ends[@]}" game=lsp steps=48 player.path="$place/$first/\${seed}/${half}55" \
        sweep=data_equivalent/${first}_then_lsp
done
"$python" run.py -m "${jobs[@]}" "${grpo[@]}" "${ends[@]}" steps=75 player.path="$place/lsp/\${seed}/${half}32" sweep=data_equivalent/lsp_then_all
