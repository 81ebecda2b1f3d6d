"""Costs on paper, against numbers worked by hand."""

from __future__ import annotations

import pytest

from prune_core import InputError
from prune_core.hardware import costs
from prune_core.hardware.costs import MNLI, Study

TINY = Study(examples=100, batch=10, dense_epochs=1, epochs=2, settings=5)


def test_steps_are_those_of_the_epochs():
    assert (TINY.dense, TINY.each, TINY.steps) == (10, 20, 110)
    assert (MNLI.dense, MNLI.each, MNLI.steps) == (49_088, 122_720, 2_503_488)


def test_one_device_does_one_after_the_other():
    one = costs.cost(TINY, 36.0, 1, 1000)
    assert one.hours == one.device_hours == pytest.approx(1.1) and one.shared_by == 1


def test_several_take_a_setting_each_before_they_share_one():
    """Five settings on five devices with a slow link: one round; dense on one of them."""
    five = costs.cost(TINY, 36.0, 5, 10**9, link=0.01)
    assert five.shared_by == 1 and five.hours == pytest.approx((10 + 20) * 36 / 3600)
    assert five.device_hours == pytest.approx(5 * five.hours)


def test_with_a_fast_link_runs_are_shared():
    ten = costs.cost(TINY, 36.0, 10, 0, link=1e9)
    assert ten.shared_by == 2 and ten.hours == pytest.approx((10 / 10 + 20 / 2) * 36 / 3600)


def test_the_exchange_of_gradients():
    """1 GB of gradients in a ring of four at 2 GB/s: each sends 1.5 GB."""
    assert costs.step(8.0, 4, 250_000_000, 2.0) == pytest.approx(2 + 0.75)
    assert costs.step(8.0, 1, 250_000_000, 2.0) == 8.0


@pytest.mark.parametrize(("seconds", "devices", "link"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_what_makes_no_sense_is_one_line(seconds, devices, link):
    with pytest.raises(InputError, match="is out of range; needed: more than 0"):
        costs.cost(TINY, seconds, devices, 1, link)
