#!/usr/bin/env bash
# Self-training: four rules, online and in one offline round, from the same number of answers and updates. Five seeds. Started again,
# it goes on.
#     experiments/neighbours/arithmetic_self_training/run.sh [python]  JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python}
jobs=(hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" experiment=arithmetic_self_training seed=0,1,2,3,4 checkpoint.every=32 checkpoint.keep=1)
offline=(update.hoard=32 update.room=32 update.fits=32 update.groups=32)
part=update.parts.preferences
pairs=($part.optimizer.lr=3e-4 $part.pairs._target_=selfplay.updates.pairs.balanced)
for rule in rejection dpo kto_pair ipo; do
    how=("update@$part=$rule" "${pairs[@]}")
    [ $rule = rejection ] && how=("update@$part=$rule" $part.optimizer.lr=1e-4 $part.keep._target_=selfplay.updates.imitation.balanced)
    "$python" run.py -m "${jobs[@]}" "${how[@]}" sweep=neighbours/arithmetic_self_training/$rule-online
    "$python" run.py -m "${jobs[@]}" "${how[@]}" "${offline[@]}" sweep=neighbours/arithmetic_self_training/$rule-offline
done
