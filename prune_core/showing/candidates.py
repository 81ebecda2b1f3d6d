"""Candidates side by side: cuts of one run with their size, speedup, score and loss, as a table to decide by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from prune_core.latency import executed
from prune_core.machine import machine
from prune_core.precision.formats import parse
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.showing import in_view
from prune_core.showing.in_view import InView


def table(run: Run, settings: Sequence[Setting], exact: Mapping[str, float] | None = None) -> pd.DataFrame:
    """A row for each setting, by its name: snapshot, sparsity, compression of the encoder, MB of the whole model,
    predicted speedup, score and how it is known, loss in points against dense.

    `exact`: exact scores that are known, by a setting's name. Raises InputError.
    """
    profile, rows = in_view.profile(), {}
    where = profile.elsewhere(machine()) if profile else ""
    for one in settings:
        view = InView(run, one.at, one.cut)
        score, how = (exact[one.name], "exact") if one.name in (exact or {}) else view.score
        speedup = profile and executed.speedup(profile, parse(one.cut.formats, run.layout), "auto", view.mask,
                                               in_view.SETTING, run.heads)
        rows[one.name] = {
            "snapshot": view.label, "sparsity": view.numbers["sparsity"],
            "encoder": view.numbers["compression_encoder"], "MB": one.storage(run).bytes / 1e6,
            f"speedup {where}".strip(): speedup, "score": score, "how": how,
            "loss": None if score is None or run.dense_score is None else 100 * (run.dense_score - score)}
    return pd.DataFrame(rows).T.infer_objects()
