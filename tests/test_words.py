"""Words that first users stumbled over do not come back, on pages, in help texts, notes and reports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SHOWN = sorted([REPO / "app.py", *(REPO / "pages").rglob("*.py"), *(REPO / "prune_core").rglob("*.py"),
                *(REPO / "prune_core").rglob("*.js"), *(REPO / "prune_core").rglob("*.html"),
                *(REPO / "prune_core" / "showing").rglob("*.md")])
RETIRED = (
    "Recorded runs that ship", "prunes BERT-like encoders", "squares kept", "share that is cut\",", "step mends",
    "praise from blame", "Hardly needed", "sooner and", "share of the variance of what", "was right and is wrong",
    "Lost and won of", "divided away", "Milestones that nobody", "predicted from the recorded surface** of",
    "A surface was recorded here", "Surfaces (CSV)", "dense / kept weights: of the", "Training has brought",
    "× inputs it meets", "loss in turn", "What the thresholds and the colours are on", "known from before",
    "\"Take away\"", "\"How it went\"", "\"Parts\", ", "What cutting it alone costs\"", "robust up to half",
    "Cheapest for the score", "is a guess: look", "What the camera", "layers alike", "types alike", "matrices alike",
    "Of other methods on other models", "one seed each, which says little", "**Settings that differ**",
    "nothing but what is kept is executed", "were not used to calibrate (", "none to mark", "More than the ideal",
    "in a process of its own: about", "Add another device", "score that may be lost", "at most four\"",
    "answered rightly", "map is alive", "Its real loss", "within.\"", "Blocks go by", "Spare the blocks",
    "so collapsed or close to it", "Not known here: {", "None recommended; nearest", "uncut</", " uncut{",
    "Against uncut", "the uncut model has", "uncut model was", "Explore an example run", "Learn the idea",
    "Points that may be",
    "scoring comes on top", "It was stopped before its end", "to the same numbers.\"",
)


def plain(text: str) -> str:
    """Source as it reads: strings that are continued on the next line are one."""
    return re.sub(r'"\s*\n\s*(?:\+ )?f?"', "", text)


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.relative_to(REPO).as_posix())
def test_no_retired_phrase_is_shown(path):
    text = plain(path.read_text(encoding="utf-8")).lower()
    assert [phrase for phrase in RETIRED if phrase.lower() in text] == []
