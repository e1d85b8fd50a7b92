# Two commands matter: `make demo` shows the project at work, `make test` shows that it is sound.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test bench bench-coco lint clean

help:
	@echo 'make demo    set up, draw a data set, train on it, caption and score its test pictures'
	@echo 'make test    set up, pass the tests'
	@echo 'make bench   set up PyTorch beside it, and time the two in turn: some 20 minutes'
	@echo 'make bench-coco   train, caption and score at the size of COCO: some 10 minutes, 1.5 GB in data/coco_shaped'
	@echo 'make lint    the linter;   make clean    remove what these made'

.venv/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv || { \
	    $(PYTHON) -m venv --without-pip .venv && \
	    $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }    # Debian's python3 lacks ensurepip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: .venv/installed
	$(BIN)/python -m pytest

# The whole story on pictures that the project draws itself: data, training, captions, scores, a page.
DEMO_FLAGS = --solver adam --max_epochs 30 --eval_period 5 --learning_rate_decay_start 20
demo: .venv/installed
	$(BIN)/python data/make_scenes.py
	rm -f cv/demo/model_checkpoint_scenes_*
	$(BIN)/python driver.py -d scenes --fappend demo -o cv/demo $(DEMO_FLAGS)
	$(BIN)/python eval_sentence_predictions.py cv/demo/model_checkpoint_scenes_*_last.h5 -b 3 \
	    --result_struct_filename demo/result_struct.json --html demo/scenes.html
	@echo
	@echo 'Look at  demo/scenes.html  in a browser: the test pictures with their captions.'
	@echo 'Next, your own data (README.md, "Train"):'
	@echo '    . .venv/bin/activate'
	@echo '    python driver.py -d flickr8k'
	@echo '    python eval_sentence_predictions.py CHECKPOINT -b 3 --html flickr8k.html'

bench: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/compare.py $(BENCH_FLAGS)

bench-coco: .venv/installed
	$(BIN)/python benchmarks/coco_scale.py

lint: .venv/installed
	$(BIN)/ruff check .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache demo cv/demo data/scenes
