# `make demo` and `make test` set up everything they need; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs clean firmware

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

# TOOLCHAIN: cortex-m4-gcc, cortex-m4-zig or aarch64-gcc
TOOLCHAIN ?= cortex-m4-gcc
firmware: $(VENV)/.installed
	$(if $(findstring zig,$(TOOLCHAIN)),$(BIN)/python -m pip install --quiet --disable-pip-version-check ziglang)
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON="$(CURDIR)/$(BIN)/python" sh examples/firmware/run.sh $(TOOLCHAIN)

check: $(VENV)/.installed
	$(BIN)/python tools/check.py --all

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

$(VENV)/.installed: pyproject.toml constraints.txt tools/install_system.sh
	sh tools/install_system.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

clean:
	rm -rf $(VENV) build demo
