# Every target does its own set-up: a virtual environment in .venv with the locked packages. LOCK=gpu on GPU machines.
PYTHON ?= python3
LOCK ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
JOB ?= jobs/quickstart.toml
VENV := .venv
STAMP := $(VENV)/.installed-$(LOCK)
# a folder of wheels that pip is configured with is passed on to uv; without one the CPU build of torch comes from its own index
WHEELS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || echo $$PIP_FIND_LINKS)
TORCH := $(if $(filter gpu,$(LOCK)),,$(if $(wildcard $(addsuffix /torch-*,$(WHEELS))),$(addprefix --find-links ,$(WHEELS)),--torch-backend cpu))

.PHONY: slurm-test sky-test install quickstart test test-long check bench lock demo clean

install: $(STAMP)

$(STAMP): cluster/locks/$(LOCK).txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "raylm needs Python 3.11 or 3.12, this is %d.%d; next: make PYTHON=python3.11" % v)'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	test -x $(VENV)/bin/uv || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip sync --quiet --python $(VENV) --compile-bytecode $(TORCH) cluster/locks/$(LOCK).txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV) --no-deps --editable .
	touch $@

# the main job: raw text to a served answer, then a chat with the model (ends at once when nobody is at the terminal)
quickstart: install
	$(VENV)/bin/raylm chat $(JOB)

# two processes, file by file: many tests wait for processes of their own, one core each is what a small machine has
SIDE_BY_SIDE = -n 2 --dist loadfile --no-loadscope-reorder
# the tests start hundreds of Python processes: what the first one compiles of raylm the others read, whatever the environment says
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest

# the environments of `raylm demo`: its tests in a browser are left out where they are not there
demo: install
	-$(VENV)/bin/python -m raylm.serve.demo.environment gradio streamlit

test: install demo
	$(PYTEST) $(SIDE_BY_SIDE)

# also what `make test` leaves out to stay short: lost machines, more variants of layouts
test-long: install demo
	RAYLM_LONG=1 $(PYTEST) $(SIDE_BY_SIDE)

# a job by Slurm on two hosts made of network namespaces: needs root and Debian's munge slurmctld slurmd slurm-client
slurm-test: install
	RAYLM_LONG=1 $(VENV)/bin/python -m pytest tests/cluster/test_slurm.py

# a job by SkyPilot, in an environment of its own, on that Slurm: needs Debian's openssh-server and rsync too
SKY := $(HOME)/.cache/raylm/sky
sky-test: install
	test -x $(SKY)/bin/sky || { $(VENV)/bin/uv venv --quiet --python $(VENV)/bin/python $(SKY) && \
		$(VENV)/bin/uv pip install --quiet --python $(SKY) --cache-dir $(SKY)/cache "skypilot[slurm,remote]==0.14.*" pip setuptools wheel; }
	RAYLM_LONG=1 RAYLM_SKY=$(SKY) $(VENV)/bin/python -m pytest tests/cluster/test_sky.py

check: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

bench: install
	@test -f tests/bench/$(NAME).py || { echo "make bench NAME=...: one of" $(basename $(notdir $(wildcard tests/bench/*.py))); exit 1; }
	$(VENV)/bin/python -m tests.bench.$(NAME)

# newest versions that fit together, as name==version and without addresses
lock: $(VENV)/bin/uv
	$(VENV)/bin/uv pip compile pyproject.toml --extra $(LOCK) --extra dev --python-version 3.11 $(TORCH) \
		--no-emit-index-url --no-annotate --no-header --upgrade --quiet --output-file cluster/locks/$(LOCK).txt
	for page in gradio streamlit; do $(VENV)/bin/uv pip compile --group pyproject.toml:$$page --python-version 3.11 --no-emit-index-url \
		--no-annotate --no-header --upgrade --quiet --output-file raylm/serve/demo/locks/$$page.txt || exit 1; done

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv

clean:
	rm -rf runs $(VENV)
