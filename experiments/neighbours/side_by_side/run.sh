#!/usr/bin/env bash
# Ten published systems and Language Self-Play at equal tokens, and what GRPO with exact rewards gains from the same starts. Five seeds.
# Started again, it goes on.
#     experiments/neighbours/side_by_side/run.sh [python]    JOBS=1 for one job at a time
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python} place=neighbours/side_by_side
sweep() { # name, overrides
    "$python" run.py -m hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" seed=0,1,2,3,4 checkpoint.every=1000 checkpoint.keep=1 \
        "${@:2}" "sweep=$place/$1"
}
sweep lsp game=lsp steps=40 eval.every=4
sweep sft experiment=points data=uniform players.teacher.answer.share=0 steps=80 eval.every=8
sweep points experiment=points steps=80 eval.every=8
sweep ingenious experiment=ingenious steps=80 eval.every=8
sweep lfr experiment=lfr steps=240 eval.every=24 '~extra_evals.likelihood'
sweep self_training experiment=arithmetic_self_training task.families=null steps=60 eval.every=6 update.parts.preferences.optimizer.lr=3e-4
sweep multiagent experiment=multiagent_finetuning eval=heldout '~eval.samples' '~eval.players' steps=50 eval.every=5
# ReverseGen: half of the tokens for its exploration, the other half for right answers to the questions that were found
sweep explore experiment=reverse_gen steps=7
sweep reverse_gen experiment=points data=none players.teacher.answer.share=0 steps=48 eval.every=4 \
    task=transcripts "task.path='multirun/$place/explore/\${seed}'" task.payoff_from=1
sweep simple experiment=simple steps=76 eval.every=19
sweep lance experiment=lance steps=60 eval.every=10
# SOFT: four rounds, as in its study, each with a quarter of the tokens
sweep soft experiment=soft eval=heldout '~eval.least' stop.metric=null steps=208 eval.every=52 update.hoard=52 update.room=52 update.fits=52
sweep offline_q experiment=scaled_ql
# the headroom: GRPO with exact rewards from both starts
sweep headroom experiment=headroom
sweep headroom_shots experiment=headroom player.path=asset:tiny-shots
