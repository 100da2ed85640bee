#!/usr/bin/env bash
# What a machine with a GPU has to show, in at most eight minutes: correctness on the device, then figures.
#   experiments/gpu/run.sh [FOLDER]                                writes to FOLDER, or beside this file
#   DEVICE=pretend SIZE=tiny experiments/gpu/run.sh /tmp/rehearsal  a rehearsal on any machine
# PYTHON is the interpreter; WHEELS a folder of wheels to install first, where no package index can be reached.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-experiments/gpu} device=${DEVICE:-cuda} size=${SIZE:-3b} python=${PYTHON:-python}
mkdir -p "$out"
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --target "$out/site" "$WHEELS"/*.whl || exit
  export PYTHONPATH="$out/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
failed=0
if "$python" -c 'import pytest' 2>/dev/null; then
  DEVICE=$device timeout 150 "$python" -m pytest tests/on_device -q -p no:cacheprovider -o addopts= >"$out/correctness.txt" 2>&1 || failed=1
  tail -n 3 "$out/correctness.txt"
else
  echo "pytest is not installed: the correctness of the device is not tested" | tee "$out/correctness.txt"
  failed=1
fi
# the pretend device has no speed: its figures are those of the processor
[ "$device" = pretend ] && device=cpu
timeout 330 "$python" experiments/gpu/measure.py --device "$device" --size "$size" --out "$out" || failed=1
exit $failed
