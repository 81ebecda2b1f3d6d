"""What Home has computed ahead: the exact score that Explore opens with, so that nobody waits for weights and data."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from pages.shared import loaders
from pages.shared.score_client import Question
from prune_core import InputError
from prune_core.runs import settings


def score() -> None:
    """Ask for it, where its weights are there and its data is at hand."""
    names = [entry.name for entry in loaders.listed() if entry.run and entry.run.with_norms]
    folder = loaders.known_data()
    if not names or not folder or not Path(folder).is_dir():
        return
    with contextlib.suppress(InputError):  # Explore says what is wrong
        run = loaders.run(loaders.first(names))
        setting = settings.opening(run)
        stage = run.snapshots[setting.at].saved
        if stage and run.has_weights(stage):
            ranked = loaders.norms(run, setting.at) if setting.cut.ranking == "norm" else loaders.ranking(
                run, stage, setting.cut.ranking)
            cut = replace(setting.cut, share=None, thresholds=setting.cut.resolved(ranked, run.layout))
            loaders.score_client().want("ahead of all sessions", Question(str(run.path), stage, cut, folder))
