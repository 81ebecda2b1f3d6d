"""The slides as one HTML file: keys, notes, a live map, six pages on paper; nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path

import jinja2

from prune_core.latency.profile import Profile
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.report import chart, write
from prune_core.showing.report.finding import Finding, Request
from prune_core.showing.report.over import Over
from prune_core.showing.slides.story import story

HERE = Path(__file__).parent
AROUND = 258  # pixels of a slide of 1280 x 720 that stand over and under the map's panels


def html(run: Run, findings: Sequence[Finding], request: Request, made: date, profile: Profile | None = None,
         of: Over | None = None) -> str:
    """Raises InputError."""
    slides, said = story(run, findings, request, made, of)
    best = next((at for at, row in enumerate(said["rows"]) if row is said["best"]), 0)
    scripts = [canvas.script(), _read(write.HERE / "page.js"), _read(HERE / "deck.js")]
    data = write.maps(run, findings, best, profile, request.dtype) | {"present": AROUND}
    return _template().render(
        said, slides=slides, chart=chart.places(run, findings, best, of), script="\n".join(scripts),
        css=_read(HERE / "deck.css"), data=write.in_script(data), map_html=canvas.part("html"),
        map_css=canvas.part("css") + _read(HERE / "map.css"))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    made = jinja2.Environment(loader=jinja2.FileSystemLoader([HERE, write.HERE]), autoescape=True,
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= write.FILTERS
    return made.get_template("deck.html")
