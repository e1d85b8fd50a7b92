"""How the learning rate falls."""

import pytest

from imagernn.nn.schedules import cosine, halving


def test_it_halves_after_its_start():
    at = halving(.8, 10, 5)
    assert [at(epoch) for epoch in (0, 10, 15, 20)] == [.8, .8, .4, .2]
    assert halving(.8, -1, 5)(99) == .8


def test_it_falls_along_a_cosine_and_stays_at_0():
    at = cosine(.8, 20)
    assert [at(epoch) for epoch in (0, 10, 20, 30)] == pytest.approx([.8, .4, 0, 0])
