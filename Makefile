# make train   set up, then the main job: train a small MFA model on the embedded corpus (a few minutes on two cores)
# make test    set up, then all tests
# make check   set up, then ruff (lint and format) and mypy: what a change must pass beside the tests
# make report  set up, then a ladder cut down to minutes and the report of it: report/index.html
# make bench   set up, then the throughput table against Hugging Face and litgpt
# make bench-decode set up, then the time of one decoded token over every attention's cache, and Hugging Face's
# make bench-data   set up, then reading and tokenising against datasets, litdata, mosaicml-streaming, sentencepiece
# ARGS adds overrides: make train ARGS="attention=mla seed=2"

PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
ARGS ?=

.PHONY: train test check report bench bench-data bench-decode clean

train: .venv/.train
	.venv/bin/python train.py attention=mfa model=nano $(ARGS)

test: .venv/.test
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

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

clean:
	rm -rf .venv build *.egg-info
