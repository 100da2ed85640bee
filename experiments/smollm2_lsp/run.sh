#!/usr/bin/env bash
# Language Self-Play of SmolLM2-135M on open questions with a frozen judge, and without the quality self-reward: three
# seeds of each, one process at a time. After `make smollm2`. Started again, it goes on.
#     experiments/smollm2_lsp/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
for arm in "lsp" "lsp_zero quality=none"; do
    read -r -a words <<<"$arm"
    for seed in 0 1 2; do
        "${1:-python}" run.py -m experiment=smollm2_lsp seed=$seed sweep="smollm2_lsp_${words[0]}_$seed" "${words[@]:1}"
    done
done
