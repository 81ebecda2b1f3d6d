"""The search on a table of costs and losses: against brute force, and by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sample_run import make_layout, make_norms

from prune_core import InputError
from prune_core.cutting.masks import BYTES, BlockMask, mask_at_sparsity
from prune_core.precision import mixture, storage
from prune_core.precision.descent import Found, Search
from prune_core.precision.formats import Format, Formats
from prune_core.precision.mixture import Option


def answered(search: Search, loss) -> tuple[Found, list]:
    """The search with its questions answered by `loss(setting)`; what was asked."""
    asking, asked = search.run(), []
    try:
        question = next(asking)
        while True:
            asked.append(question)
            question = asking.send(loss(question.setting))
    except StopIteration as ended:
        return ended.value, asked


def convex(seed: int, matrices: int = 4, options: int = 4) -> tuple[list[list[int]], list[list[float]]]:
    """Costs that fall and losses that rise faster and faster, of each matrix its own."""
    random = np.random.default_rng(seed)
    costs = [sorted(map(int, random.integers(10, 200, options)), reverse=True) for _ in range(matrices)]
    steep = random.uniform(0.1, 3.0, matrices)
    losses = [[float(k * (one[0] - cost) ** 2 / 1e3) for cost in one] for one, k in zip(costs, steep, strict=True)]
    return costs, losses


def added(losses):
    return lambda setting: sum(one[at] for one, at in zip(losses, setting, strict=True))


def best_of_all(costs, loss, limit: float) -> float:
    return min(loss(setting) for setting in itertools.product(*(range(len(one)) for one in costs))
               if sum(one[at] for one, at in zip(costs, setting, strict=True)) <= limit)


# ---------------------------------------------------------------- by hand


def test_by_hand():
    # a: 10 -> 6 costs 1 (0.25 a unit), -> 2 costs 9;  b: 10 -> 8 costs 1 (0.5), -> 4 costs 3 (0.5 from there)
    costs, losses = [[10, 6, 2], [10, 8, 4]], [[0, 1, 9], [0, 1, 3]]
    found, _ = answered(Search(costs, 16), added(losses))
    assert (found.setting, found.loss, found.path) == ((1, 0), 1, ((0, 0), (1, 0)))
    found, _ = answered(Search(costs, 10), added(losses))
    assert (found.setting, found.loss) == ((1, 2), 4) and found.base == 0
    assert found.path[:2] == ((0, 0), (1, 0))


def test_a_step_goes_to_the_corner_of_the_hull_not_to_what_lies_above_it():
    costs, losses = [[10, 8, 4]], [[0.0, 5.0, 6.0]]  # 2.5 a unit first, 1 a unit to the last
    found, _ = answered(Search(costs, 9), added(losses))
    assert found.path == ((0,), (2,)) and found.trail == ((2,), (1,))  # the limit allows the milder one
    assert (found.setting, found.loss) == ((1,), 5.0)


def test_where_nothing_is_lost_it_goes_first():
    found, _ = answered(Search([[10, 5], [10, 5]], 15), added([[0, 0.3], [0, -0.1]]))
    assert found.setting == (0, 1)


def test_a_limit_that_all_keep_needs_no_step():
    found, asked = answered(Search([[10, 5]], 10), added([[0, 1]]))
    assert found.setting == (0,) and found.path == ((0,),) and found.swaps == 0
    assert asked[0].setting == (0,)


def test_one_that_cannot_be_met():
    with pytest.raises(InputError, match="needed: 7"):
        answered(Search([[10, 5], [4, 2]], 6), added([[0, 1], [0, 1]]))


def test_losses_that_do_not_add_are_measured_anew():
    """Alone each of the first two costs nothing; together they cost much, which only a second look tells."""
    costs = [[100, 20], [100, 20], [100, 20]]

    def loss(setting):
        return [0, 0.01, 10][setting[0] + setting[1]] + 0.5 * setting[2]

    found, asked = answered(Search(costs, 150), loss)
    assert found.loss == pytest.approx(0.51) and sum(found.setting) == 2 and found.setting[2] == 1
    assert "together" in {one.doing for one in asked}


def test_a_swap_finds_what_the_descent_missed():
    # a loses least a unit (0.5 against 0.53), but 3 are enough, and b has them for less
    costs, losses = [[10, 2], [10, 7]], [[0, 4.0], [0, 1.6]]
    found, _ = answered(Search(costs, 17), added(losses))
    assert found.path == ((0, 0), (1, 0)) and found.trail == ((1, 0), (0, 1))
    assert (found.loss, found.swaps, found.start) == (1.6, 1, None)


def test_swaps_begin_where_there_is_least_loss():
    # the last option of each is there for the start alone: the descent leaves it out
    costs, losses, errors = [[10, 2, 5], [10, 2, 5]], [[0, 9.0, 1.0], [0, 9.0, 1.0]], [[0, 0.9, 0.1], [0, 0.9, 0.1]]
    options = {"starts": [(2, 2)], "errors": errors, "own": [2, 2]}
    found, asked = answered(Search(costs, 12, **options), added(losses))
    assert (found.path, found.start, found.trail) == (((0, 0), (1, 0)), 0, ((2, 2),)) and found.loss == 2.0
    assert [one.setting for one in asked if one.doing == "one at a time"] == [(0, 0), (1, 0), (0, 1)]
    search = Search(costs, 12, **options)
    answered(search, added(losses))
    assert search.lost[0][2] == pytest.approx(1.0)  # 9 of 0.9, so 1 of 0.1
    bad, _ = answered(Search(costs, 12, **options), lambda setting: added(losses)(setting) + 20 * (setting == (2, 2)))
    assert bad.start is None and bad.trail[0] == (1, 0)


def test_never_worse_than_what_it_starts_from():
    for seed in range(10):
        costs, losses = convex(seed, matrices=6)
        limit = 0.5 * sum(one[0] for one in costs) + 0.5 * sum(one[-1] for one in costs)
        random = np.random.default_rng(seed)
        starts = [start for start in random.integers(0, 4, (40, 6)).tolist()
                  if sum(one[at] for one, at in zip(costs, start, strict=True)) <= limit][:3]
        found, _ = answered(Search(costs, limit, starts=[tuple(one) for one in starts]), added(losses))
        assert starts and found.loss <= min(added(losses)(one) for one in (*starts, found.path[-1]))
        on_the_way = [added(losses)(one) for one in found.trail]
        assert on_the_way == sorted(on_the_way, reverse=True) and found.trail[-1] == found.setting


# ---------------------------------------------------------------- against brute force


@pytest.mark.parametrize("seed", range(12))
def test_near_the_best_of_all(seed):
    costs, losses = convex(seed)
    loss, mild = added(losses), sum(one[0] for one in costs)
    least = sum(one[-1] for one in costs)
    for part in (0.2, 0.5, 0.8):
        limit = mild - part * (mild - least)
        found, _ = answered(Search(costs, limit), loss)
        assert sum(one[at] for one, at in zip(costs, found.setting, strict=True)) <= limit
        assert found.loss == pytest.approx(loss(found.setting))
        spread = loss(tuple(len(one) - 1 for one in costs))
        assert found.loss <= best_of_all(costs, loss, limit) + 0.02 * spread


def test_mostly_the_best_of_all():
    best = 0
    for seed in range(40):
        costs, losses = convex(seed)
        limit = 0.6 * sum(one[0] for one in costs) + 0.4 * sum(one[-1] for one in costs)
        best += answered(Search(costs, limit), added(losses))[0].loss <= best_of_all(
            costs, added(losses), limit) + 1e-9
    assert best >= 32


def test_never_worse_than_the_descent():
    for seed in range(10):
        costs, losses = convex(seed, matrices=6)
        limit = 0.5 * sum(one[0] for one in costs) + 0.5 * sum(one[-1] for one in costs)
        found, _ = answered(Search(costs, limit), added(losses))
        descent = next(s for s in found.path if sum(one[at] for one, at in zip(costs, s, strict=True)) <= limit)
        assert found.loss <= added(losses)(descent)


def test_the_same_again_and_from_answers_kept():
    costs, losses = convex(3, matrices=6)
    limit = 0.5 * sum(one[0] for one in costs)
    found, asked = answered(Search(costs, limit), added(losses))
    again, other = answered(Search(costs, limit), added(losses))
    assert found == again and asked == other
    assert len({one.setting for one in asked}) == len(asked) == found.asked  # nothing is asked twice
    assert [one.done for one in asked] == list(range(len(asked))) and all(one.done < one.total for one in asked)


def test_a_smaller_limit_walks_the_same_way_on():
    costs, losses = convex(5, matrices=6)
    mild, paths = sum(one[0] for one in costs), []
    for limit in (0.8 * mild, 0.6 * mild, 0.5 * mild):
        found, asked = answered(Search(costs, limit), added(losses))
        paths.append([s for s in found.path if s != found.setting])
        assert sum(one[at] for one, at in zip(costs, found.setting, strict=True)) <= limit
    assert paths[1][: len(paths[0])] == paths[0] and paths[2][: len(paths[1])] == paths[1]


# ---------------------------------------------------------------- the table


LAYOUT = make_layout()
NORMS = make_norms(LAYOUT)


def test_options_and_their_bytes():
    table = mixture.table(LAYOUT, NORMS)
    assert len(table.options[0]) == 18  # 3 bits x (dense, 3 shares, 2 patterns)
    assert str(table.options[0][0]) == "0 16" and table.options[0][0].words == "dense, bf16"
    assert Option(0.5, Format.parse("4")).words == "blocks 0.5, 4 bits"
    assert Option(0.0, Format.parse("8/2:4")).words == "8 bits, 2:4"
    for costs in table.costs:
        assert list(costs) == sorted(costs, reverse=True)
    name = LAYOUT.matrices[0]  # 64 x 64
    of = dict(zip(map(str, table.options[0]), table.costs[0], strict=True))
    assert of["0 16"] == 2 * 64 * 64 + 1 and of["0 8"] == 64 * 64 + 4 * 64 + 1
    assert of["0 4/2:4"] == 64 * 64 // 2 // 2 + 4 * 64 + 1 + 64 * 16 * 2 * 2 // 8  # 2 places of 2 bits a group
    assert name.m == name.n == 64


def test_a_setting_costs_what_the_whole_model_is_stored_in():
    table, random = mixture.table(LAYOUT, NORMS), np.random.default_rng(1)
    for _ in range(5):
        setting = tuple(int(random.integers(len(one))) for one in table.options)
        whole = storage.storage(table.mask(setting), table.formats(setting))
        assert whole.encoder.stored == sum(one[at] for one, at in zip(table.costs, setting, strict=True))
        assert table.formats(setting).of(LAYOUT) == {n: o.format for n, o in table.at(setting).items()}
        shares = table.shares(setting)
        mask = table.mask(setting)
        assert all(mask.matrix_sparsity(name) == pytest.approx(share, abs=0.01) for name, share in shares.items())


def test_what_another_option_beats_is_left_out():
    table = mixture.table(LAYOUT, NORMS, (0.5,), ("2:4",), ("8", "4"))
    assert [str(one) for one in table.options[0]] == ["0 8", "0 8/2:4", "0.5 8", "0 4", "0 4/2:4", "0.5 4"]
    errors = [[0.0, 0.2, 0.4, 0.05, 0.25, 0.45]] * len(table.options)
    some, theirs = table.promising(errors)
    assert [str(one) for one in some.options[0]] == ["0 8", "0 4", "0 4/2:4", "0.5 4"]
    assert some.costs[0] == tuple(table.costs[0][at] for at in (0, 3, 4, 5)) and theirs[0] == (0.0, 0.05, 0.25, 0.45)
    alike, _ = table.promising([[0.0] * 6] * len(table.options))  # the smallest of those that are equally far off
    assert [str(one) for one in alike.options[0]] == ["0.5 4"]


@pytest.mark.parametrize("scope", ["global", "matrix"])
def test_a_uniform_setting_among_the_options(scope):
    table, four = mixture.table(LAYOUT, NORMS, (0.5,), ("2:4",), ("8", "4")), Format.parse("4")
    for share in (0.0, 0.017, 0.1234, 0.5, 0.77):
        mask = mask_at_sparsity(NORMS, LAYOUT, share, scope)
        joined, setting = table.joined(mask, four)
        assert joined.mask(setting).digest() == mask.digest()
        assert joined.formats(setting).of(LAYOUT) == dict.fromkeys((m.name for m in LAYOUT.matrices), four)
        stored = storage.storage(mask, Formats(weights=(four,))).encoder.stored
        assert stored == sum(one[at] for one, at in zip(joined.costs, setting, strict=True))
        assert all(one[:6] == other for one, other in zip(joined.options, table.options, strict=True))
        if share == 0:
            assert joined == table


def test_a_larger_ratio_never_takes_more_and_every_ratio_is_kept():
    table, random = mixture.table(LAYOUT, NORMS), np.random.default_rng(2)
    weight = random.uniform(0.5, 3.0, len(table.costs))
    losses = [[float(w * ((one[0] - cost) / one[0]) ** 3) for cost in one]
              for one, w in zip(table.costs, weight, strict=True)]
    dense, before = BYTES * LAYOUT.encoder_weights, float("inf")
    for ratio in (2, 3, 4, 6, 8, 12, 16):
        found, _ = answered(Search(table.costs, dense / ratio), added(losses))
        stored = storage.storage(table.mask(found.setting), table.formats(found.setting)).encoder.stored
        assert dense / stored >= ratio and stored <= before
        before = stored


def test_what_is_gone_already_is_no_option_of_its_own():
    zeroed = {name: np.where(np.arange(values.size).reshape(values.shape) % 10 < 6, np.float32(0), values)
              for name, values in NORMS.items()}
    table = mixture.table(LAYOUT, zeroed, patterns=(), bits=("8",))
    assert [str(one) for one in table.options[0]] == ["0 8", "0.75 8", "0.9 8"]
    whole = BlockMask(LAYOUT, {m.name: zeroed[m.name] > 0 for m in LAYOUT.matrices})
    setting = (0,) * len(table.options)
    assert sum(one[0] for one in table.costs) == storage.storage(whole, Formats.of_each(
        LAYOUT, {m.name: Format.parse("8") for m in LAYOUT.matrices})).encoder.stored
    assert table.mask(setting).digest() == whole.digest()


@pytest.mark.parametrize("more, words", [
    ({"shares": (0.5, 1.0)}, "share 1"), ({"shares": (0.0,)}, "share 0"), ({"patterns": ("5:4",)}, "5:4"),
    ({"patterns": ("2:5",)}, "not divisible"), ({"bits": ("9",)}, "bits '9'"), ({"bits": ("4/2:4",)}, "bits"),
    ({"bits": ()}, "bits")])
def test_what_cannot_be_chosen_from(more, words):
    with pytest.raises(InputError, match=words):
        mixture.table(LAYOUT, NORMS, **more)


def test_of_the_usual_patterns_those_that_fit_are_taken():
    assert mixture.usual_patterns(LAYOUT) == (mixture.PATTERNS, "")
    fit, why = mixture.usual_patterns(make_layout(block="1x2"))
    assert fit == ("2:4",) and why.startswith("without 1:4, ") and "contradict each other" in why and "\n" not in why
    fit, why = mixture.usual_patterns(make_layout(block="1x3", hidden=66, inner=132))
    assert fit == () and why.startswith("without 2:4 and 1:4, ")


def test_a_pattern_that_contradicts_the_blocks():
    layout = replace(make_layout(block="16x4"))
    with pytest.raises(InputError, match="pattern 1:3"):
        mixture.table(layout, make_norms(layout), patterns=("1:3",))
