#!/usr/bin/env bash
# LSP on SmolLM2-135M with a verifier, no question given: the prompt as it is, and with a spark; three seeds each, two jobs at a
# time. After `make smollm2`. Started again, it goes on.
#     experiments/smollm2_arithmetic/run.sh [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
"${1:-python}" run.py -m hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=0,1,2 sweep=smollm2_arithmetic \
    experiment=smollm2_arithmetic,smollm2_arithmetic_spark
