# Two commands do everything: `make book` and `make test`. Both create .venv first if it is missing or stale.
PYTHON   ?= python3
# Further arguments of pip; on a machine without a GPU, for a smaller PyTorch:
#   make book PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# Test files, and notebooks, that are run at once.
JOBS     ?= 2

VENV      := .venv
BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NOTEBOOKS := $(shell find book -name '*.ipynb' -not -path '*/.ipynb_checkpoints/*' 2>/dev/null | sort)
# Progress bars show durations, which no stored output may hold.
QUIET     := TQDM_DISABLE=1
# Notebooks that run side by side would fight for cores.
ONE_CORE  := OMP_NUM_THREADS=1

.PHONY: book test results notebooks engine address clean help

help:
	@echo "make book       build the book, print where it is"
	@echo "make test       ruff, mypy, pytest, nbval over every notebook"
	@echo "make results    list every run of the reproduction: done, running, missing, its cost, what is for a GPU"
	@echo "make notebooks  execute every notebook in place"
	@echo "make engine     compile the kernels of the engine in the page, for who changes them"
	@echo "make address    move all links to another repository: make address REPO=owner/name"
	@echo "make clean      delete what was built"

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	    || { echo "Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -r requirements.txt
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --no-build-isolation --no-deps --editable .
	@touch $@

# The quickstart really runs here, on the embedded images; the book itself shows the stored outputs,
# which `make test` compares with fresh ones.
book: $(INSTALLED)
	@mkdir -p _build/executed
	$(QUIET) $(BIN)/papermill book/start/quickstart.ipynb _build/executed/quickstart.ipynb --cwd book/start \
	    --kernel python3 --no-progress-bar -p preset smoke -p images embedded
	$(BIN)/jupyter-book build book --path-output . --all -W -n --keep-going --quiet
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(ONE_CORE) $(BIN)/pytest -n $(JOBS) --dist loadfile
	$(QUIET) $(ONE_CORE) $(BIN)/pytest --nbval --nbval-current-env --nbval-cell-timeout 600 -n $(JOBS) --dist loadscope $(NOTEBOOKS)

results: $(INSTALLED)
	$(BIN)/python -m ddtb_lite experiments

notebooks: $(INSTALLED)
	$(QUIET) $(ONE_CORE) $(BIN)/python book/execute.py $(NOTEBOOKS)

# The compiler is a wheel of 80 MB, which nobody else needs.
engine: $(INSTALLED)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[engine]"
	$(BIN)/python book/engine/build.py

# _config.yml holds the address; everything that repeats it is rewritten.
address:
	@test -n "$(REPO)" || { echo "Name the repository: make address REPO=owner/name"; exit 1; }
	$(PYTHON) book/address.py $(REPO)

clean:
	rm -rf _build .jupyter_cache .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
