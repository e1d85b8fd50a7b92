# Two commands matter: `make demo` shows the project at work, `make test` shows that it is sound.
PYTHON ?= python3
BIN := .venv/bin
DEMO_FLAGS = --solver adam --tanhC_version 1 --max_epochs 40 --eval_period 5 --learning_rate_decay_start 20 \
    --drop_prob_encoder .2 --drop_prob_decoder .3

.PHONY: demo test lint clean

.venv/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

test: .venv/installed
	$(BIN)/python -m pytest

# The whole story on pictures drawn by the project itself: data, training, captions, scores, a page. About three minutes.
DEMO_CHECKPOINT = cv/demo/model_checkpoint_scenes_*_demo_last.h5
demo: .venv/installed
	$(BIN)/python data/make_scenes.py
	$(BIN)/python driver.py -d scenes --fappend demo -o cv/demo $(DEMO_FLAGS)
	mkdir -p demo
	$(BIN)/python eval_sentence_predictions.py $(DEMO_CHECKPOINT) -b 3 \
	    --result_struct_filename demo/result_struct.json --html demo/scenes.html
	@echo
	@echo 'Look at  demo/scenes.html  in a browser: the test pictures with their captions.'
	@echo 'Next, the same on your own data (see README.md):'
	@echo '    .venv/bin/python driver.py -d flickr8k'
	@echo '    .venv/bin/python eval_sentence_predictions.py cv/CHECKPOINT.h5 -b 3 --html flickr8k.html'

lint: .venv/installed
	$(BIN)/ruff check .

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
