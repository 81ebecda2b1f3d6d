"""Pipelines on paper: the partition against a search of all, the times against a plain simulation, counts by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_run import make_mask, make_profile

from prune_core import InputError
from prune_core.hardware import pipelines, sizes
from prune_core.hardware.pipelines import Plan, Question, Stage, Unit
from prune_core.latency.profile import uncut
from prune_core.latency.work import Batch

COSTS = (4, 4, 1, 1, 1, 1)


def test_the_example_that_was_worked_by_hand():
    """2-2-2 has 8 for its largest and takes 68 for 8 micro-batches; the best has 4 and takes 40, at 80%."""
    assert pipelines.even(6, 3) == [2, 4, 6]
    assert pipelines.total([8, 2, 2], 8) == 68
    assert pipelines.partition(COSTS, 3) == [1, 2, 6]
    assert pipelines.total([4, 4, 4], 8) == 40
    assert pipelines.utilisation([4, 4, 4], 8) == pytest.approx(0.8)
    plan = plan_of([4, 4, 4], 8)
    assert plan.bubble == pytest.approx(2 / (8 + 2)) and plan.unbalanced == pytest.approx(0)


def plan_of(times, micro_batches: int) -> Plan:
    return Plan(tuple(Stage((Unit(at),), ms, 0, 0, 0) for at, ms in enumerate(times)), micro_batches)


@pytest.mark.parametrize(("units", "words"), [
    (((0, ""),), "layer 0"), (((1, "attention"),), "layer 1, attention"),
    (((0, "attention"), (0, "neurons")), "layer 0"), (((0, ""), (1, ""), (2, "")), "layers 0 to 2"),
    (((0, "attention"), (0, "neurons"), (1, "attention")), "layer 0 to layer 1, attention"),
    (((1, "neurons"), (2, "attention"), (2, "neurons")), "layer 1, neurons, to layer 2")])
def test_a_stage_in_words(units, words):
    assert Stage(tuple(Unit(*unit) for unit in units), 1, 0, 0, 0).words == words


def stages_of(costs, ends) -> list[float]:
    return [sum(costs[begin:end]) for begin, end in itertools.pairwise([0, *ends])]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 50), min_size=1, max_size=8), st.data())
def test_no_other_partition_has_a_smaller_largest_stage(costs, data):
    stages = data.draw(st.integers(1, len(costs)))
    ends = pipelines.partition(costs, stages)
    assert len(ends) == stages and ends[-1] == len(costs) and all(a < b for a, b in itertools.pairwise([0, *ends]))
    every = [[*some, len(costs)] for some in itertools.combinations(range(1, len(costs)), stages - 1)]
    assert max(stages_of(costs, ends)) == pytest.approx(min(max(stages_of(costs, some)) for some in every))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=6), st.integers(1, 9))
def test_the_time_is_that_of_a_simulation(times, micro_batches):
    """Each stage begins when it is free and has what the one before gives; idle time is bubble and unbalance."""
    free, work = [0.0] * len(times), 0.0
    for _ in range(micro_batches):
        came = 0.0
        for at, ms in enumerate(times):
            came = free[at] = max(came, free[at]) + ms
            work += ms
    plan = plan_of(times, micro_batches)
    assert plan.ms == pytest.approx(free[-1])
    assert plan.utilisation == pytest.approx(work / (len(times) * free[-1]))
    assert plan.utilisation + plan.bubble + plan.unbalanced == pytest.approx(1)


def asked(devices: int, share: float = 0.5, **more) -> Question:
    mask = make_mask(share)
    return Question(mask, 2, Batch(8, 32), devices, **more)


def encoder(question: Question) -> sizes.Sizes:
    return sizes.of(question.mask.layout, 2)


def test_units_are_as_long_together_as_the_pass():
    """Whatever is divided, nothing is lost or counted twice: a plan for one device is the latency model's pass."""
    profile = make_profile()
    for whole in (False, True):
        for share in (1.0, 0.3):
            question = asked(1, share, micro_batches=1, whole=whole)
            plan, even = pipelines.plans(question, profile, encoder(question))
            expected = profile.compact_ms(question.mask, question.batch, 2)
            assert plan.ms == pytest.approx(expected) == pytest.approx(even.ms)
            assert plan.utilisation == 1 and plan.bubble == 0


def test_units_are_as_long_together_as_the_pass_with_every_price():
    """The same with prices for all that is counted."""
    from dataclasses import replace

    from prune_core.latency.profile import PathPrices
    from prune_core.latency.work import PASS

    profile, random = make_profile(), np.random.default_rng(0)
    path = profile.paths["fp32"]
    every = PathPrices({name: float(random.uniform(1e-6, 1e-4)) for name in PASS}, 0.05, path.blocking)
    profile = replace(profile, paths={"fp32": every})
    question = asked(1, 0.4, micro_batches=1)
    plan, _ = pipelines.plans(question, profile, encoder(question))
    assert plan.ms == pytest.approx(profile.compact_ms(question.mask, question.batch, 2))


def test_a_plan_is_never_slower_than_the_even_split():
    profile = make_profile()
    for devices in (1, 2, 3, 4):
        question = asked(devices, 0.3)
        plan, even = pipelines.plans(question, profile, encoder(question))
        assert len(plan.stages) == devices == len(even.stages)
        assert plan.ms <= even.ms + 1e-9
        assert [unit for stage in plan.stages for unit in stage.units] == list(pipelines.units_of(question.mask))
        told = plan.to_json()
        assert {"stages", "bubble", "utilisation", "micro_batches"} <= told.keys()


def test_a_slow_link_wants_fewer_micro_batches_and_costs_time():
    profile = make_profile()
    fast, slow = (pipelines.plans(q, profile, encoder(q))[0] for q in (asked(2), asked(2, link=0.0001)))
    assert slow.ms > fast.ms
    boundary = 4 * Batch(8, 32).tokens * encoder(asked(2)).hidden / 1e6
    assert fast.stages[0].sends_mb * fast.micro_batches == pytest.approx(boundary)
    assert fast.stages[-1].sends_mb == 0


def test_the_weights_of_all_stages_are_those_of_the_compact_model():
    from prune_core.hardware import memory

    question, profile = asked(4, 0.5), make_profile()
    plan, _ = pipelines.plans(question, profile, encoder(question))
    path = profile.path_of("auto", question.mask, question.batch, 2).path
    parts = memory.compact(encoder(question), question.mask, 2, question.batch, 1, path, profile.paths[path].blocking)
    own = 4 * (encoder(question).embeddings + encoder(question).head)
    assert sum(stage.weights_mb for stage in plan.stages) == pytest.approx((parts["packed"] + own) / 1e6)


@pytest.mark.parametrize(("change", "why"), [
    ({"devices": 0}, "0 devices; needed: 1 or more"),
    ({"devices": 5}, "5 devices for 4 parts of the encoder; needed: 1 to 4"),
    ({"devices": 2, "micro_batches": 3}, "3 micro-batches do not divide 8 sentences; needed: one of 1, 2, 4, 8"),
    ({"devices": 2, "link": 0.0}, "link 0 is out of range"),
])
def test_what_cannot_be_planned_is_one_line(change, why):
    with pytest.raises(InputError, match=why) as caught:
        asked(**change)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- every matrix on all devices


def test_the_traffic_that_is_known_of_bert_base():
    """32 x 128 on two devices in fp32: 24 MiB a layer forward, 48 with the backward pass, against 12 a boundary."""
    from prune_core.cutting.blocks import BlockShape

    one = sizes.Layer(768, 12, 768, 3072)
    layout = sizes.layout_of([one], BlockShape(64, 1), 10**7)
    split = pipelines.tensor_split(uncut(layout), 12, 2, Batch(32, 128))
    assert 1e6 * split["traffic_mb"] == 24 * 2**20
    assert split["balance"] == split["balance_even"] == pytest.approx(1)


def test_longest_first_deals_out_what_is_uneven():
    loads = np.array([9, 8, 1, 1, 1, 1, 1])
    ranks = pipelines.longest_first(loads, 2)
    assert sorted(np.bincount(ranks, loads)) == [11, 11]
    assert pipelines._largest(loads, np.arange(7) * 2 // 7, 2) == 19


def test_dealt_out_is_no_worse_than_in_a_row_and_heads_are_not_divided():
    mask = make_mask(0.4)
    split = pipelines.tensor_split(mask, 2, 2, Batch(8, 32))
    assert 1 <= split["balance"] <= split["balance_even"] + 1e-9
    with pytest.raises(InputError, match="3 devices for 2 heads"):
        pipelines.tensor_split(mask, 2, 3, Batch(8, 32))
