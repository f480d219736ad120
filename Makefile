PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo math check test lint bench gpu gpu_in_venv clean

# Tokenizes Python's own source, trains a small GPT on it and shows what it writes. Run again, it resumes from what is there.
demo: $(VENV)/runtime
	$(PY) corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
	$(PY) train.py config/demo.py
	$(PY) sample.py --out_dir=out/demo --prompt='def parse' --num_samples=2 --max_new_tokens=120 --temperature=0.6 --seed=1

# Generates word problems, trains a small GPT to solve them with a calculator, and scores it on others. Run again, it resumes.
math: $(VENV)/runtime
	$(PY) -m tasks.prepare_problems --out_dir=data/math
	$(PY) train.py config/math_small.py
	$(PY) -m tasks.solve --out_dir=out/math --question='Ben has 486 shells. On Friday he finds 47 more. He puts them into 13 boxes, the same number in each. How many shells are in each?'
	$(PY) -m tasks.solve_rate --out_dir=out/math

# The fast half of the tests, for the minute after an edit.
check: $(VENV)/dev
	$(PY) -m pytest -q -n 2 -m "not slow" tests

# Everything. The kernels run under Triton's interpreter, which must be chosen before Triton is imported: in a process of its own.
test: $(VENV)/dev
	$(PY) -m pytest -q -n 2 --dist=worksteal tests
	TRITON_INTERPRET=1 $(PY) -m pytest -q -n 2 tests/test_kernels.py tests/test_kernels_linear.py

lint: $(VENV)/dev
	$(PY) -m ruff check .

bench: $(VENV)/dev
	$(PY) -m bench

# Checks and measures everything on this machine's GPU, in under nine minutes, into bench_results/. PYTHON is used as it is where
# its torch sees the GPU, without network; elsewhere .venv is made. ARGS=--peer_dir=PATH measures nanoGPT too.
gpu:
	@if $(PYTHON) -m bench.usable $(ARGS); then exec $(PYTHON) -m bench.gpu $(ARGS); else exec $(MAKE) gpu_in_venv; fi

gpu_in_venv: $(VENV)/dev
	@exec $(PY) -m bench.gpu $(ARGS)

$(VENV)/runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $(VENV)/runtime $@

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis
