"""Which dev sentences flip first, against a plain loop."""

from __future__ import annotations

import pytest
import tiny

from prune_core import InputError
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation import flips
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.flips import SHOWN
from prune_core.runs.run import Run

SPARSITIES = (0.2, 0.5, 0.8, 0.9)


@pytest.fixture(scope="module")
def made(tiny_model, tiny_data, tmp_path_factory) -> Run:
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "made")


@pytest.mark.parametrize("repaired", [False, True])
def test_first_flips_are_those_of_a_plain_loop(made, repaired):
    told = flips.first(made, SPARSITIES, "matrix", repaired=repaired)
    bench, norms = Bench(made, "dense"), made.ranking("dense")
    answers = [bench.outputs(mask_at_sparsity(norms, made.layout, s, "matrix"), repaired).argmax(1)
               for s in (0.0, *SPARSITIES)]
    truth = bench.examples.labels
    expected = {}
    for i, label in enumerate(truth):
        if answers[0][i] != label:
            continue
        for step in range(1, 5):
            if all(answers[later][i] != label for later in range(step, 5)):
                expected[tuple(bench.examples.texts[i])] = told["sparsities"][step - 1]
                break
    assert told["right_before"] == int((answers[0] == truth).sum())
    assert told["lost"] == [int(((answers[0] == truth) & (a != truth)).sum()) for a in answers[1:]]
    assert told["won"] == [int(((answers[0] != truth) & (a == truth)).sum()) for a in answers[1:]]
    assert [one["sparsity"] for one in told["first"]] == sorted(expected.values())[:2 * SHOWN]
    assert all(expected[tuple(one["texts"])] == one["sparsity"] for one in told["first"])


@pytest.mark.parametrize("wrong", [(), (0.5, 0.2), (0.5, 0.5)])
def test_sparsities_must_rise(made, wrong):
    with pytest.raises(InputError, match="rising"):
        flips.first(made, wrong)
