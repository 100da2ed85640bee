#!/usr/bin/env bash
# The paper's comparison on the embedded model: six sweeps of six seeds, two jobs at a time. Started again, it goes on.
# GRPO on data for 150 steps; LSP-Zero and LSP for 300, read at 150 and at 300; then GRPO for 100 from each one's step 150.
#     experiments/paper_table/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python}
jobs=(hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=0,1,2,3,4,5)
for method in grpo lsp_zero lsp; do
    "$python" run.py -m "${jobs[@]}" experiment=table_$method sweep=paper_table/$method
done
for method in grpo lsp_zero lsp; do
    "$python" run.py -m "${jobs[@]}" experiment=table_then_grpo sweep=paper_table/${method}_then_grpo \
        player.path="multirun/paper_table/$method/\${seed}/checkpoints/step-000150"
done
