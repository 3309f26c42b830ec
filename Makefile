# make app     install what is missing, start the page on http://127.0.0.1:7860
# make setup   install only
# make test    install what the tests need, run lint and tests (in WORKERS processes, 2 by default)
# make mini    print the training sequence of gap3d-mini (see train/README.md)
#
# TORCH_INDEX=<url> takes torch from a wheel index of your choice (PyTorch's own has a CPU-only build).

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
TORCH_INDEX ?=
HOST ?= 127.0.0.1
PORT ?= 7860
WORKERS ?= 2
PYTEST_ARGS ?=

.PHONY: app setup test lint browser clean mini

app: setup
	$(PY) -m gap3d_app app --host $(HOST) --port $(PORT)

setup: $(VENV)/.app-installed

test: $(VENV)/.test-installed browser
	$(PY) -m ruff check .
	$(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.test-installed
	$(PY) -m ruff check .

$(PY):
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0]) if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app-installed: requirements.txt | $(PY)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.txt)"
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.test-installed: requirements-dev.txt $(VENV)/.app-installed
	$(PIP) -r requirements-dev.txt
	touch $@

# Browser and validator for the tests. Without root (or another system) the tests that need them skip and say why.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "No Chromium and no way to install it here: browser tests will be skipped."
	@[ tests/node/node_modules/.installed -nt tests/node/package.json ] || \
	  { command -v npm >/dev/null && npm install --prefix tests/node --no-audit --no-fund --silent && \
	    touch tests/node/node_modules/.installed; } || \
	  echo "npm cannot install gltf-validator and axe-core: tests that need them will be skipped."

mini:
	@sed -n '/^## The sequence/,/^## /p' train/README.md

clean:
	rm -rf $(VENV) tests/node/node_modules
