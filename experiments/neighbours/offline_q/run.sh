#!/usr/bin/env bash
# Offline Q-learning on logged episodes of three games: five logs of 10,000 episodes for each game and behaviour, then the critic from
# the first 100, 1,000 or all of them, and from all outcomes with their probabilities. Started again, it goes on.
#     experiments/neighbours/offline_q/run.sh [python [games]]
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=${1:-python}
games=${2:-kuhn dilemma_uniform dilemma_skewed leduc}
home=offline_q
common=(experiment=scaled_ql checkpoint.keep_every=0 checkpoint.keep=1)
seeds=seed=0,1,2,3,4
one_per_log="hydra.sweep.subdir='\${players.behaviour.ratio}-\${seed}'"

study() { # name, ratios between options in the behaviour, first role, second role, optimizer steps, options of the game
  local name=$1 ratios=$2 first=$3 second=$4 fits=$5
  shift 5
  local steps=("update.fits=$fits" "update.target_every=$((fits / 10))")
  local game=("${common[@]}" "players.behaviour.ratio=$ratios" seats.first=null seats.second=null "$@")
  local seats=("++seats.$first=behaviour" "++seats.$second=behaviour")
  "$python" run.py -m "${game[@]}" "${seats[@]}" "$seeds" episodes=10000 update.fits=1 eval=none "$one_per_log" "sweep=$home/log/$name"
  "$python" run.py -m "${game[@]}" "++seats.$first=logged" "++seats.$second=logged" "$seeds" rollout=replayed \
    "rollout.run='multirun/$home/log/$name/\${players.behaviour.ratio}-\${seed}'" 'update.teachers=[logged]' \
    episodes=100,1000,10000 update.alpha=0,0.1,1 "${steps[@]}" "sweep=$home/learnt/$name"
  "$python" run.py -m "${game[@]}" "${seats[@]}" rollout=exact episodes=1 update.alpha=0,0.1,1 "${steps[@]}" "sweep=$home/exact/$name"
}

for name in $games; do
  case $name in
    kuhn) study kuhn 1.0,0.25 first second 100 player.states=16 player.actions=2 ;;
    dilemma_uniform) study dilemma_uniform 1.0 row column 100 game=iterated_dilemma player.states=700 player.actions=2 ;;
    dilemma_skewed) study dilemma_skewed 0.25 row column 200 game=iterated_dilemma player.states=700 player.actions=2 ;;
    leduc) study leduc 1.0 player_0 player_1 100 game=openspiel game.name=leduc_poker player.states=940 player.actions=3 ;;
  esac
done
