#!/usr/bin/env bash
# Language Self-Play of SmolLM2-135M on open questions with a frozen judge: three seeds, one process at a time.
# After `make smollm2`. Started again, it goes on.
#     experiments/smollm2_lsp/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
for seed in 0 1 2; do
    "${1:-python}" run.py -m experiment=smollm2_lsp seed=$seed sweep="smollm2_lsp_lsp_$seed"
done
