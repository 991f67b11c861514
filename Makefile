# `make` lists the targets. It needs Python 3.11 or newer with venv, and a network the first time.
.PHONY: help demo pictures session watch-picture reference test chaos environment mlflow lint lock cluster cluster-down bench
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
ENVIRONMENT := .venv/.installed
RUN := .venv/bin/python
INSTALLER ?= uv

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 22

demo: $(ENVIRONMENT) ## run jobs/digits-quickstart.yaml without Slurm and write a report, in results/demo
	@OMP_NUM_THREADS=1 $(RUN) submit_multiple.py jobs/digits-quickstart.yaml --local --workers 2 --overwrite --yes \
		--output-dir results/demo # one thread each: on a busy machine, threads of tiny models mostly wait for each other
	@batch=$$(ls -d results/demo/*-digits-quickstart | tail -n 1); \
		$(RUN) experiments.py status "$$batch" && $(RUN) experiments.py report "$$batch"

pictures: $(ENVIRONMENT) ## redraw the pictures of docs/gallery.md: trains 144 runs on digits, a few minutes
	@$(RUN) submit_multiple.py jobs/digits-quickstart.yaml --local --overwrite --yes --output-dir results/pictures \
		--set 'momentum=[0.5, 0.9]' --set 'seed_training=range(3)' --set 'metrics=[[confusion_matrix]]' \
		--set system_metrics=0.03
	@$(RUN) -m docs.pictures.draw "$$(ls -d results/pictures/*-digits-quickstart | tail -n 1)"
	@$(RUN) -m docs.pictures.page "$$(ls -d results/pictures/*-digits-quickstart | tail -n 1)"

session: $(ENVIRONMENT) ## record the terminal session of the README on the cluster of `make cluster`, which stays up
	@eval "$$(tests/cluster/up.sh)" && $(RUN) -m docs.pictures.session

watch-picture: $(ENVIRONMENT) ## take the picture of `watch` in docs/submission.md: trains 24 runs on digits, a minute
	@$(RUN) -m docs.pictures.watch

reference: $(ENVIRONMENT) ## generate the pages of docs/reference from the code
	@$(RUN) -m docs.reference.generate

test: $(ENVIRONMENT) ## run all tests, including those on a real Slurm if it is installed and you are root
	@$(RUN) -m pytest -q --numprocesses=2

chaos: $(ENVIRONMENT) ## inject faults into runs, connections and a real Slurm; verify exactly-once execution and results
	@GRIDIRON_CHAOS=1 GRIDIRON_REQUIRE_SLURM=1 $(RUN) -m pytest -v -s tests/test_interrupted.py \
		tests/chaos_training.py tests/submission/planning/test_extend.py tests/test_chaos.py tests/test_slurm_lag.py tests/test_slurm_search.py \
		tests/test_slurm_remote.py tests/test_fuzz.py tests/test_stacked_grids.py \
		tests/test_random_configs.py

environment: $(ENVIRONMENT) ## install requirements.lock into .venv; the other targets do so too

mlflow: .venv-mlflow/.installed ## install MLflow's server into .venv-mlflow, for its tests and `mlflow ui`

lint: $(ENVIRONMENT) ## run ruff, mypy and shellcheck
	@.venv/bin/ruff check
	@.venv/bin/mypy
	@.venv/bin/shellcheck --external-sources *.sh tools/*.sh .ci/run tests/cluster/*.sh tests/cluster/sites/*.sh

cluster: ## start a four-node Slurm here (root, slurm-wlm slurmdbd munge mariadb-server); LAG=1: on slow shared files
	@LAG=$(LAG) tests/cluster/up.sh

cluster-down: ## stop that Slurm and remove its files
	@tests/cluster/down.sh

bench: $(ENVIRONMENT) mlflow ## run all benchmarks and write docs/benchmarks.md
	@$(RUN) -m benchmarks

lock: $(ENVIRONMENT) ## pin the dependencies of pyproject.toml; UPGRADE=--upgrade takes the newest versions
	@$(RUN) tools/packages.py uv pip compile --quiet --universal --python-version 3.11 --group dev --group optional \
		--no-annotate $(UPGRADE) --custom-compile-command 'make lock' pyproject.toml --output-file requirements.lock
	@$(RUN) tools/packages.py uv pip compile --quiet --universal --python-version 3.11 --group mlflow-server \
		--no-annotate $(UPGRADE) --custom-compile-command 'make lock' --output-file requirements-mlflow.lock

# uv, configured as pip is, or else pip; INSTALLER=pip does without uv
$(ENVIRONMENT): requirements.lock
	@test -n "$(PYTHON)" || \
		{ echo "error: no Python 3.11 or newer with venv; name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@test -x .venv/bin/pip || { echo "Creating .venv with $$($(PYTHON) --version): about 9 GB, once"; \
		$(PYTHON) -m venv "$$(readlink .venv || echo .venv)"; } # venv itself refuses a link
	@$(RUN) tools/packages.py install --installer $(INSTALLER) requirements.lock .venv
	@touch $@

.venv-mlflow/.installed: requirements-mlflow.lock | $(ENVIRONMENT)
	@test -x .venv-mlflow/bin/pip || { echo "Creating .venv-mlflow: about 0.8 GB, once"; $(RUN) -m venv .venv-mlflow; }
	@$(RUN) tools/packages.py install --installer $(INSTALLER) requirements-mlflow.lock .venv-mlflow
	@touch $@
