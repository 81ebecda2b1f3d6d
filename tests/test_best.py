"""The best result where some were trained in fewer bits: by the bytes that they take, else as it was by compression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sample_run import make_run

from pages.home import best_results
from prune_core.cutting.masks import BYTES, mask_at
from prune_core.precision import formats
from prune_core.precision.storage import storage
from prune_core.runs import best
from prune_core.runs.run import Run


def made(folder: Path, name: str, compression: float, bits: str = "") -> Run:
    """A recorded run that was trained in these bits."""
    path = make_run(folder, name, compression=compression)
    about = json.loads((path / "run.json").read_bytes())
    about["config"]["bits"] = bits
    (path / "run.json").write_text(json.dumps(about))
    return Run(path)


def test_fewer_bytes_win_at_the_same_score(tmp_path):
    four, plain = made(tmp_path, "four", 1.5, "4"), made(tmp_path, "plain", 3.0)
    result, other = best.of([four])[0], best.of([plain])[0]
    assert (result.formats, other.formats, result.score) == ("4", "", other.score)
    mask = mask_at(four.norms(four.saved(result.stage)), four.layout, 0.0)
    stored = storage(mask, formats.parse("4", four.layout)).encoder.stored
    assert result.fewer == pytest.approx(BYTES * four.layout.encoder_weights / stored) and result.fewer > 8
    assert best.ranked([other, result], 0.02) == [result, other]
    assert best.better(four, [four, plain], 0.02) is None
    first = best.better(plain, [four, plain], 0.02)
    assert first.run.name == "four"
    assert best.told(first) == (f"Another run does better: four, 1.5x by group-lasso in 4 bits, the encoder in "
                                f"{result.fewer:.1f}x fewer bytes than in fp32, 0.885 of 0.900 dense.")


def test_without_formats_compression_decides_as_before(tmp_path):
    small, large = made(tmp_path, "small", 3.0), made(tmp_path, "large", 2.0)
    results = best.of([large, small])
    worth = best.size(results)
    assert [worth(one) for one in results] == [one.compression_encoder for one in results]
    assert best.told(best.better(large, [small, large], 0.02)) == (
        "Another run does better: small, 3x by group-lasso, 0.885 of 0.900 dense.")


def test_where_bytes_are_not_known_what_is_cut_counts(tmp_path):
    four, plain = made(tmp_path, "four", 1.5, "4"), made(tmp_path, "plain", 3.0)
    unknown = best.Result(four, best.of([four])[0].stage, 0.885, 0.9, 1.5, 1.3)
    assert unknown.fewer == 1.5
    assert best.best([unknown, *best.of([plain])], 0.02).run is plain


def test_home_tells_formats_and_bytes_where_there_are_any(tmp_path):
    four, plain = made(tmp_path, "four", 1.5, "4"), made(tmp_path, "plain", 2.0)
    result = best.of([four])[0]
    assert best_results.words(four) == (f"Best: **a third of the encoder cut, 4 bits, {result.fewer:.1f}x fewer bytes, "
                                        "0.885** of 0.900 dense, 1.5 points lost")
    assert best_results.words(plain) == "Best: **half of the encoder cut, 0.885** of 0.900 dense, 1.5 points lost"
