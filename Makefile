PYTHON ?= python3
BIN := .venv/bin
# the C library of Linux keeps what is freed: docs/benchmarks.md, "What page faults cost"
KEPT := MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000

.PHONY: setup demo docs test test-oldest lint house bench support fuzz

# the stamp is younger than pyproject.toml as long as nothing needs to be installed again
setup: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/prune-realloc demo

# the docs as a site, in build/site; a link that leads nowhere is an error
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# the quick tests on the lowest versions that pyproject.toml allows, in an environment of their own
test-oldest: setup
	$(BIN)/python benchmarks/oldest.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# how the package is built, before and after it was moved into rooms
house: setup
	$(BIN)/python benchmarks/house.py --before 05d4a8d --out docs/house.json
	$(BIN)/python benchmarks/tables.py

bench: setup
	$(BIN)/python benchmarks/analyze_speed.py --out docs/analyze_speed.json
	$(BIN)/python benchmarks/planning_speed.py --out docs/planning_speed.json
	$(BIN)/python benchmarks/against_torch_pruning.py --accuracy docs/pruning.json --speed docs/pruning_speed.json
	$(KEPT) $(BIN)/python benchmarks/efficientvit_speed.py --out docs/efficientvit_speed.json
	$(BIN)/python benchmarks/train_speed.py --out docs/train_speed.json
	$(BIN)/python benchmarks/fused_attention.py --out docs/fused_attention.json
	$(BIN)/python benchmarks/latency_prediction.py --out docs/latency_prediction.json
	$(BIN)/python benchmarks/speed_per_mac.py --out docs/speed_per_mac.json
	$(BIN)/python benchmarks/page_faults.py --out docs/page_faults.json
	$(BIN)/python benchmarks/peak_memory.py --out docs/peak_memory.json
	$(BIN)/python benchmarks/profiles.py --out docs/profiles.json
	$(BIN)/python benchmarks/tables.py

# seventy networks of timm, each analysed, cut, refitted, saved and exported; those that the file has are not run again
support: setup
	$(BIN)/python benchmarks/support.py --out docs/support.json
	$(BIN)/python benchmarks/tables.py

# 2,500 damaged inputs: none may end in a traceback, execute code or leave half of a file
fuzz: setup
	$(BIN)/python benchmarks/fuzz_inputs.py --out docs/fuzz_inputs.json
