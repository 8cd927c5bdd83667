# Everything here works in a fresh clone: each target first makes what it needs, once.
#
#   PYTHON      interpreter of the virtual environment (3.11 or later); read when it is made
#   ARGS        further arguments of pytest: make test ARGS='tests/unit -k window'

PYTHON ?= python3
ARGS ?=

# Reach recipes through the environment: a name with spaces or quotes stays one word.
export PYTHON SOURCE MOUNTPOINT

PIP = .venv/bin/python -m pip --disable-pip-version-check -qq
PYTEST = .venv/bin/python -m pytest
UV_VERSION = 0.13.9

.PHONY: help setup run test test-long check lock clean

help:
	@echo 'make setup      .venv with the locked dependencies and this package, C parts built'
	@echo 'make run        the demonstration: a sample served slowly, mounted, loaded, measured'
	@echo 'make run SOURCE=DIR MOUNTPOINT=DIR'
	@echo '                mount SOURCE on MOUNTPOINT until Ctrl-C'
	@echo 'make test       all tests but the long ones; ARGS=… goes to pytest'
	@echo 'make test-long  all tests, soaks and large random runs included'
	@echo 'make check      linter, formatter, types and the fast tests'
	@echo 'make lock       resolve the dependencies anew into requirements*.txt'
	@echo 'make clean      remove .venv and everything built'
	@echo 'PYTHON=… chooses the interpreter of .venv (now $(PYTHON))'

setup: .venv/.installed
	@:

# Stamps live in .venv: removing it starts over.
.venv/.system-build: .ci/system-packages
	@sh .ci/system-packages build
	@mkdir -p .venv
	@touch $@

.venv/.system-test: .ci/system-packages
	@sh .ci/system-packages test
	@mkdir -p .venv
	@touch $@

.venv/.created: | .venv/.system-build
	@echo 'making .venv'
	@"$$PYTHON" -m venv .venv
	@touch $@

# pyfuse3 is published as source only. What builds it is locked too and comes first, so that
# nothing unlocked is fetched into an isolated build.
.venv/.dependencies: requirements-build.txt requirements.txt .venv/.created
	@echo 'installing the locked dependencies'
	@$(PIP) install --require-hashes --no-deps -r requirements-build.txt
	@$(PIP) install --require-hashes --no-deps --no-build-isolation -r requirements.txt
	@touch $@

.venv/.installed: pyproject.toml $(wildcard setup.py fusemount/*.c fusemount/*.h)
.venv/.installed: .venv/.dependencies
	@echo 'building and installing fusemount'
	@$(PIP) install --no-deps --no-index --no-build-isolation --editable .
	@.venv/bin/python -c 'import fusemount._interpose, fusemount._slowsource' || { \
		echo 'fusemount: the C parts were not built; see pip install -v for why' >&2; exit 1; }
	@touch $@

run: .venv/.installed
	@if [ -z "$$SOURCE$$MOUNTPOINT" ]; then \
		exec .venv/bin/fusemount demo; \
	elif [ -z "$$SOURCE" ] || [ -z "$$MOUNTPOINT" ]; then \
		echo 'fusemount: make run takes SOURCE=DIR and MOUNTPOINT=DIR together, or neither' >&2; \
		exit 2; \
	else \
		exec .venv/bin/fusemount mount "$$SOURCE" "$$MOUNTPOINT"; \
	fi

test: .venv/.installed .venv/.system-test
	@$(PYTEST) $(ARGS)

test-long: .venv/.installed .venv/.system-test
	@$(PYTEST) --long $(ARGS)

check: .venv/.installed .venv/.system-test
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet || \
		{ echo 'not formatted: run .venv/bin/ruff format' >&2; exit 1; }
	@.venv/bin/mypy --strict --no-error-summary
	@$(PYTEST) -q tests/unit tests/optimizer $(ARGS)

# Settings of this machine (other indexes, folders of wheels) must not reach the lock.
lock: .venv/.created
	@"$$PYTHON" -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check -qq install uv==$(UV_VERSION)
	@$(LOCK) --all-extras --output-file requirements.txt pyproject.toml
	@$(LOCK) --group build --constraint requirements.txt --output-file requirements-build.txt

LOCK = env -u UV_INDEX_URL -u UV_EXTRA_INDEX_URL -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_FIND_LINKS \
	build/lock/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --upgrade >/dev/null

clean:
	@rm -rf .venv build dist *.egg-info fusemount/*.so optimizer/*.so \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find fusemount optimizer tests -name __pycache__ -type d -exec rm -rf {} +
