# The commands of Headrace. `make` alone prints them.

PYTHON := .venv/bin/python
UV_HOME := .headrace/uv
NEEDED_GB := 8
ARGS ?=
TESTS_WITHOUT_JAVA := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m "not java" -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup up down status demo check test evaluate behaviour replay bench clean java

help:  ## print this list
	@echo "Headrace: a real-time recommender on Apache Flink. the commands:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Options of a script go into ARGS: make replay ARGS='--data ml-100k --speed 50'"

demo: java setup  ## show everything at work on real data: sets up, starts the stack, replays MovieLens, cleans up
	@$(PYTHON) scripts/replay.py --data ml-100k $(ARGS)

# Two processes, a thread each. A file of tests stays in one, where what it makes once serves all of them; the files keep
# their order, so that the longest ones (behaviour, evaluate, finetune) do not come last.
check: setup  ## what one runs all day: lint, format, types of model/, the tests without Java (two minutes)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(TESTS_WITHOUT_JAVA) $(ARGS)

# Those of Java come alone: they bring up a whole stack. With ARGS='-k NAME' one of the two may select nothing (code 5).
test: java setup  ## every test, in a few minutes (needs Java and Maven)
	@$(TESTS_WITHOUT_JAVA) $(ARGS) || [ $$? -eq 5 ]
	@$(PYTHON) -m pytest -m java $(ARGS) || [ $$? -eq 5 ]

up: java setup  ## start Kafka, Flink, the job, the learner and the page, and leave them running: ARGS='--k 10'
	@$(PYTHON) scripts/stack.py up $(ARGS)

status: setup  ## what runs now, its memory, its log, how often it was started again
	@$(PYTHON) scripts/stack.py status

down: setup  ## stop what `make up` started
	@$(PYTHON) scripts/stack.py down

replay: setup  ## send a file of events through the running stack: ARGS='--events FILE --items FILE'
	@$(PYTHON) scripts/replay.py $(ARGS)

evaluate: setup  ## score the recommender beside other methods, without Flink (10 minutes): ARGS='--baselines all'
	@$(PYTHON) scripts/evaluate.py $(ARGS)

behaviour: setup  ## what users do to their lists in a made-up shop, before and after learning (2 minutes)
	@$(PYTHON) scripts/behaviour.py $(ARGS)

bench: setup .venv/.bench  ## how fast Headrace is, beside other ways of building the same (7 minutes; QUICK=1: two)
	@$(PYTHON) scripts/bench.py $(ARGS)

clean:  ## stop the stack and delete what these commands made (.venv, .headrace, caches)
	@if [ -f .venv/.ready ]; then $(PYTHON) scripts/stack.py down; fi
	@rm -rf .venv .headrace .pytest_cache .ruff_cache .mypy_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean"

setup: .venv/.ready  ## the virtual environment with everything in it (about 8 GB, a minute or two)

java:
	@{ [ -x "$${JAVA_HOME:-/none}/bin/java" ] || command -v java >/dev/null; } \
	  || { echo "headrace: no Java here: 17 or newer is wanted (Debian: apt-get install openjdk-17-jdk-headless)" >&2; exit 2; }
	@command -v mvn >/dev/null \
	  || { echo "headrace: no Maven here: mvn fetches Kafka's jars (Debian: apt-get install maven)" >&2; exit 2; }

# The rivals that scripts/compare.py runs beside Headrace: nobody else needs them.
.venv/.bench: .venv/.ready
	@echo "setup: confluent-kafka and Quix Streams, to compare with"
	@if uv --version >/dev/null 2>&1; then uv=uv; else uv=$(UV_HOME)/bin/uv; fi; \
	$$uv pip install --quiet --python $(PYTHON) --editable '.[test,check,evaluate,bench]'
	@touch .venv/.bench

# Debian's own Python comes first: it is built with optimisation and runs plain loops twice as fast as many others.
.venv/.ready: pyproject.toml
	@set -e; \
	for python in /usr/bin/python3.11 python3.11 python3 none; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	if [ $$python = none ]; then \
	  echo "headrace: no Python 3.11 here: neither /usr/bin/python3.11 nor python3.11 on the PATH (Flink's Python needs that version)" >&2; exit 2; \
	fi; \
	free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); \
	if [ ! -d .venv ] && [ "$$free" -lt $(NEEDED_GB) ]; then \
	  echo "headrace: $$free GB free in $$(pwd): $(NEEDED_GB) GB are wanted (torch is the largest part); free some space" >&2; exit 2; \
	fi; \
	if uv --version >/dev/null 2>&1; then uv=uv; else uv=$(UV_HOME)/bin/uv; fi; \
	if ! $$uv --version >/dev/null 2>&1; then \
	  echo "setup: uv, which installs the rest"; mkdir -p .headrace; \
	  for pip in "$$python -m pip" "python3 -m pip" pip3 pip none; do \
	    if [ "$$pip" != none ] && $$pip install --quiet --target $(UV_HOME) --upgrade uv 2>$(UV_HOME).log; then break; fi; \
	  done; \
	  if ! $$uv --version >/dev/null 2>&1; then \
	    cat $(UV_HOME).log >&2; \
	    echo "headrace: pip could not install uv: install pip (Debian: apt-get install python3-pip) or uv itself" >&2; exit 2; \
	  fi; \
	fi; \
	echo "setup: .venv with $$python (Flink, torch and the rest: about 6 GB; a minute or two the first time)"; \
	rm -f .venv/.ready; \
	[ -x $(PYTHON) ] || $$uv venv --quiet --python $$python .venv; \
	$$uv pip install --quiet --python $(PYTHON) --editable '.[test,check,evaluate,int8,drift,media,describe,lora]'; \
	$(PYTHON) -m scripts.compile; \
	touch .venv/.ready; \
	echo "setup: done"
