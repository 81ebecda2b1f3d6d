"""A report as one HTML file with the live map, or as Markdown."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path

from prune_core import InputError, files
from prune_core.cutting.masks import norm_scale
from prune_core.latency.profile import Batch, Profile
from prune_core.machine import machine
from prune_core.runs.run import Run
from prune_core.showing import canvas
from prune_core.showing.canvas import Start
from prune_core.showing.report import chart
from prune_core.showing.report.contents import contents
from prune_core.showing.report.finding import Finding, Request
from prune_core.showing.report.over import Over
from prune_core.showing.report.recommend import points

HERE = Path(__file__).parent
MAPS = 1_000_000  # groups above which only the recommended setting gets its map: 4 bytes each, for each snapshot


def markdown(run: Run, findings: Sequence[Finding], request: Request, made: date, of: Over | None = None) -> str:
    """The report as Markdown. Raises InputError."""
    return templates().get_template("page.md").render(contents(run, findings, request, made, of))


def html(
    run: Run, findings: Sequence[Finding], request: Request, made: date, profile: Profile | None = None,
    of: Over | None = None,
) -> str:
    """The report as one HTML file: no part of it is fetched from anywhere. Raises InputError.

    `profile`: prices what the map's threshold would save, as in the app, in the arithmetic that was asked for. `of`: of
    a report over all runs of a task, what it is over.
    """
    said = contents(run, findings, request, made, of)
    best = next((at for at, row in enumerate(said["rows"]) if row is said["best"]), 0)
    script = canvas.script() + "\n" + (HERE / "page.js").read_text(encoding="utf-8")
    return templates().get_template("page.html").render(
        said, chart=chart.places(run, findings, best, of), script=script,
        data=in_script(maps(run, findings, best, profile, request.dtype)),
        map_html=canvas.part("html"), map_css=canvas.part("css"))


def maps(run: Run, findings: Sequence[Finding], best: int, profile: Profile | None, dtype: str) -> dict:
    """What the live map is given: a header for each setting that is shown; norms, once where settings share them."""
    shown = range(len(findings)) if sum(kept.size for kept in findings[0].mask.kept.values()) <= MAPS else [best]
    places: dict[tuple, int] = {}  # (run, snapshot, ranking) -> where its norms are
    data = {"first": best, "maps": [], "norms": []}
    for at in shown:
        own, setting = findings[at].run or run, findings[at].setting
        key = (str(own.path), setting.at, setting.cut.ranking)
        if key not in places:
            places[key] = len(data["norms"])
            norms = canvas.norms_bytes([m.name for m in own.layout.matrices], setting.ranking(own))
            data["norms"].append(base64.b64encode(norms).decode())
        header = _header(own, findings[at], profile, dtype)
        data["maps"].append({"letter": "ABCD"[at], "norms": places[key], "header": header})
    return data


def _header(run: Run, finding: Finding, profile: Profile | None, dtype: str) -> dict:
    """What the map is sent for this setting: one snapshot only."""
    setting = finding.setting
    cut, surface, high = setting.cut, setting.surface(run), norm_scale([setting.ranking(run)])
    surfaces = {cut.kind: surface} if surface else {}
    head = canvas.header(run, setting.at, high, Start(cut), cut, profile, Batch(), surfaces, dtype,
                         profile.elsewhere(machine()) if profile else "")
    head |= {"moments": [head["moments"][head["moment"]]], "moment": 0, "value": cut.ranking, "exact": False,
             "repaired": cut.repaired, "dtype": _dtype(finding)}
    return head | {"answers": _answers(run, finding)}


def _answers(run: Run, finding: Finding) -> list[dict]:
    """The exact score of the setting, where the report has it: the map shows it while its own cut is that one."""
    setting, score = finding.setting, finding.score
    if not score or not score.exact:
        return []
    cut, dtype = setting.cut, _dtype(finding)
    return [{"run": run.name, "moment": 0, "ranking": cut.ranking, "repaired": cut.repaired, "scope": cut.scope,
             "dtype": dtype, "arithmetic": None if dtype == "fp32" else dtype,
             "thresholds": cut.resolved(setting.ranking(run), run.layout), "formats": cut.formats, "data": "",
             "doing": "done", "score": score.value, "low": score.low, "high": score.high}]


def _dtype(finding: Finding) -> str:
    """The arithmetic of its score, without the path."""
    return finding.score.arithmetic.partition(" ")[0] if finding.score else "fp32"


def in_script(data: Mapping) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


@cache
def templates():
    import jinja2

    made = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=jinja2.select_autoescape(["html"]),
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= FILTERS
    return made


def _cell(text: str) -> str:
    """Text from outside in Markdown: no marks, no HTML, no cell of a table ended."""
    others = {"<": "&lt;", ">": "&gt;", "\n": " "}
    return "".join("\\" + sign if sign in "\\`*_{}[]#|~" else others.get(sign, sign) for sign in str(text))


FILTERS = {"times": lambda value: "all cut" if value == float("inf") else f"{value:.2f}x",
           "signed": lambda value: f"{100 * value:+.1f}".replace("-", "−"), "points": points, "cell": _cell}


def write(path: Path, content: str | bytes) -> dict:
    """Write it into a new file. Raises InputError."""
    path, content = Path(path), content.encode() if isinstance(content, str) else content
    if path.exists():
        raise InputError(f"{str(path)!r} is there already; needed: a new file")
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise InputError(f"the report cannot be written to {str(path)!r}: {error.strerror or error}") from None
    return {"path": str(path), "bytes": len(content)}
