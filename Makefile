# Each target makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test lint docs bench stress ablation downstream gpu gpu-ablation gpu-builtin
help: ## show this
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## make .venv with tcae and its tools

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: install ## encode real photographs with the built-in model, decode them, show both
	@mkdir -p demo
	$(BIN)/python -m tcae_cli.images.samples demo/photos
	$(BIN)/tcae encode-dataset demo/photos demo/latents.zarr
	$(BIN)/tcae decode demo/latents.zarr demo/reconstructions --grid 16
	@echo
	@echo "Originals above their reconstructions: the picture named above. Next:"
	@echo "  source $(BIN)/activate"
	@echo "  tcae encode-dataset YOUR_IMAGES latents.zarr"
	@echo "  tcae decode latents.zarr reconstructions --grid 16"
	@echo "  tcae eval --data YOUR_IMAGES --metric psnr --metric ssim"

# Threads that wait, or a second one of each process, would otherwise take the processor from the other file's tests.
test: export OMP_WAIT_POLICY = passive
test: install ## lint, build the documentation, then every test: two files at once, then those that need the machine
	@$(MAKE) --jobs 2 --output-sync=target lint docs
	@# By default files with few tests come last, among which are the longest: one process would wait for the other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	@# The other files are not imported.
	$(BIN)/python -m pytest -m alone $$(grep --recursive --files-with-matches --include='test_*.py' mark.alone tests)

lint: install ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## build the documentation in build/docs; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --builder html docs build/docs

bench: install ## speed of the pipeline on this machine, with IMAGES=FOLDER on your images
	$(BIN)/python -m pytest tests/benchmarks --override-ini norecursedirs= -s

stress: install ## kill encode-dataset over a hundred times, damage files of every kind; SEED=N draws the same again
	STRESS=1 $(BIN)/python -m pytest tests/stress

ablation: install ## train the paper's 2x2 ablation on DATA=FOLDER of tars, two seeds an arm, and print its table
	$(BIN)/python recipes/ablation.py $(DATA) runs/ablation

gpu: install ## measure and check a GPU in eight minutes; OPTIONS="--cpu --small" tries the same without one
	$(BIN)/python -m tests.gpu.accept --out build/gpu $(OPTIONS)

gpu-ablation: install ## the ablation on a GPU, eight minutes a command: repeat it until it prints its findings
	$(BIN)/python recipes/ablation.py '$(or $(DATA),../shared/data/small)' runs/gpu-ablation --on-device --minutes 8 \
	    --set train.accumulate=2 $(OPTIONS)

gpu-builtin: install ## train tcae-tiny on a GPU for seven minutes, and replace it if the new one is better
	$(BIN)/python recipes/builtin.py '$(or $(DATA),../shared/data/photos)' runs/gpu-builtin $(OPTIONS)

OUT ?= runs/downstream
downstream: install ## train a small DiT on the latents of DATA (a folder, tars) in OUT=FOLDER, and draw images
	$(BIN)/tcae encode-dataset '$(DATA)' '$(OUT)/latents.zarr' --size 64
	$(BIN)/python recipes/downstream/train_dit.py '$(OUT)/latents.zarr' '$(OUT)/dit' \
	    $$(test ! -e '$(OUT)/dit/state.safetensors' || echo --resume) --steps 2000 --width 192 --depth 4 --heads 3 \
	    --batch-size 128 --lr 1e-3 --save-every 1000 --sampling-steps 15 --num-samples 256
