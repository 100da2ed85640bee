#!/usr/bin/env bash
# Offline Q-learning on logged episodes of three games: five logs of 10,000 episodes for each game and behaviour, then the critic from
# the first 100, 1,000 or all of them, and from all outcomes with their probabilities. Started again, it goes on.
#     experiments/neighbours/offline_q/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python}
home=offline_q
common=(experiment=scaled_ql checkpoint.keep_every=0 checkpoint.keep=1 'players.behaviour.ratio=1.0,0.25')
seeds=seed=0,1,2,3,4
few="hydra.sweep.subdir='\${players.behaviour.ratio}-\${seed}'"

study() { # name, first role, second role, options of the game
  local name=$1 first=$2 second=$3
  shift 3
  local game=("${common[@]}" seats.first=null seats.second=null "$@")
  local seats=("++seats.$first=behaviour" "++seats.$second=behaviour")
  "$python" run.py -m "${game[@]}" "${seats[@]}" "$seeds" episodes=10000 update.fits=1 eval=none "$few" "sweep=$home/log/$name"
  "$python" run.py -m "${game[@]}" "++seats.$first=logged" "++seats.$second=logged" "$seeds" rollout=replayed \
    "rollout.run='multirun/$home/log/$name/\${players.behaviour.ratio}-\${seed}'" 'update.teachers=[logged]' \
    episodes=100,1000,10000 update.alpha=0,0.1,1 "sweep=$home/learnt/$name"
  "$python" run.py -m "${game[@]}" "${seats[@]}" rollout=exact episodes=1 update.alpha=0,0.1,1 "sweep=$home/exact/$name"
}

study kuhn first second player.states=16 player.actions=2
study iterated_dilemma row column game=iterated_dilemma player.states=700 player.actions=2
study leduc player_0 player_1 game=openspiel game.name=leduc_poker player.states=940 player.actions=3
