PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo math chat check test test_all lint bench gpu gpu_in_venv lock locked clean

# Tokenizes Python's own source, trains a small GPT on it and shows what it writes. Run again, it resumes from what is there.
demo: $(VENV)/runtime
	$(PY) corpus.py --source=stdlib --vocab_size=4096 --out_dir=data/stdlib
	$(PY) train.py config/demo.py
	$(PY) sample.py --out_dir=out/demo --prompt='def parse' --num_samples=2 --max_new_tokens=120 --temperature=0.8 --seed=1
	@echo 'README.md has what to try next; first: source $(VENV)/bin/activate'

# Generates word problems, trains a small GPT to solve them with a calculator, and scores it on others. Run again, it resumes.
math: $(VENV)/runtime
	$(PY) -m tasks.prepare_problems --out_dir=data/math
	$(PY) train.py config/math_small.py
	$(PY) -m tasks.solve --out_dir=out/math --question='Ben has 486 shells. On Friday he finds 47 more. He puts them into 13 boxes, the same number in each. How many shells are in each?'
	$(PY) -m tasks.solve_rate --out_dir=out/math

# Generates instructions, trains a small GPT to follow them, scores it on others and shows a conversation. Run again, it resumes.
chat: $(VENV)/runtime
	$(PY) -m tasks.chat --source=generated --vocab_size=257 --block_size=256 --out_dir=data/chat
	$(PY) train.py config/chat_small.py
	$(PY) -m tasks.chat_score --out_dir=out/chat
	$(PY) -m tasks.chat_score --out_dir=out/chat --chat='Hi! What can you do? | Spell the word harbour. | And backwards? | Now in capitals, please.'

# The fast half of the tests, for the minute after an edit.
check: $(VENV)/dev
	$(PY) -m pytest -q -n 2 -m "not slow" tests

# All tests but those marked long. The kernels run under Triton's interpreter, which must be chosen before Triton is imported: in a
# process of its own.
test: $(VENV)/dev
	$(PY) -m pytest -q -n 4 --dist=worksteal -m "not long" tests
	TRITON_INTERPRET=1 $(PY) -m pytest -q -n 4 tests/test_kernels.py tests/test_kernels_linear.py

# And those that take minutes each: benches, the notebook, two hosts, a server under load.
test_all: test
	$(PY) -m pytest -q -n 2 -m long tests

lint: $(VENV)/dev
	$(PY) -m ruff check .

bench: $(VENV)/dev
	$(PY) -m bench

# Checks and measures everything on this machine's GPU, within nine minutes, into bench_results/. PYTHON is used as it is where
# its torch sees the GPU, without network; elsewhere .venv is made. ARGS=--peer_dir=PATH measures nanoGPT too.
gpu:
	@$(PYTHON) -m bench.usable $(ARGS); case $$? in 0) exec $(PYTHON) -m bench.gpu $(ARGS);; 1) exec $(MAKE) gpu_in_venv;; *) exit 2;; esac

gpu_in_venv: $(VENV)/dev
	@exec $(PY) -m bench.gpu $(ARGS)

# Writes the lock files anew from the lists that people edit; needs uv and the network. A version stays as it is while the lists
# allow it: `make lock UPGRADE=--upgrade` takes the newest of all.
UPGRADE :=
CPU_WHEELS := https://download.pytorch.org/whl/cpu
LOCK := uv pip compile --quiet --no-config --python-version=3.10 --universal --generate-hashes --no-annotate \
	--custom-compile-command='make lock' $(UPGRADE)
lock:
	$(LOCK) requirements-dev.txt --output-file=requirements-dev.lock
	$(LOCK) requirements.txt cloud/requirements.txt --constraints=requirements-dev.lock --output-file=requirements.lock
	$(LOCK) .github/requirements-lint.txt --output-file=.github/requirements-lint.lock
	sed -n 's/^torch==.*/&+cpu/p' requirements.txt | \
		$(LOCK) - --no-deps --default-index=$(CPU_WHEELS) --output-file=cloud/torch-cpu.lock

# The environment of the lock files, as CI has it, with torch for the CPU; `make test` then installs nothing.
locked:
	$(PYTHON) -m venv $(VENV)
	bash cloud/install.sh cpu+triton requirements-dev.lock $(PY) -m pip
	touch $(VENV)/runtime $(VENV)/dev

$(VENV)/runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV): torch, with what it needs for GPUs, is about 3 GB on Linux'
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV): torch, with what it needs for GPUs, is about 3 GB on Linux'
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $(VENV)/runtime $@

clean:
	rm -rf $(VENV) .pytest_cache .hypothesis
