#!/usr/bin/env bash
# SOFT: four rounds of answering behind examples and learning without them, against one, in another order, and against right answers.
# Five seeds. Started again, it goes on.
#     experiments/neighbours/soft/run.sh [python]          JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python}
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" experiment=soft seed=0,1,2,3,4 checkpoint.every=32 checkpoint.keep=1
    stop.metric=null eval.least=null) # all arms make the same number of updates; the gate is that of the seeds' common start
once=(update.hoard=32 update.room=32 update.fits=32 eval.every=32)
"$python" run.py -m "${jobs[@]}" sweep=neighbours/soft/rounds
"$python" run.py -m "${jobs[@]}" "${once[@]}" sweep=neighbours/soft/once
"$python" run.py -m "${jobs[@]}" update.order._target_=selfplay.updates.orders.surprisal sweep=neighbours/soft/ordered
"$python" run.py -m "${jobs[@]}" "${once[@]}" '+players.expert=${players.teacher}' seats.solver=expert \
    '+update.teachers=[expert]' sweep=neighbours/soft/right
