"""The encoder's map with its threshold, counted and drawn in the browser, in the app and in a report.

Here is what the browser is sent. The files of COUNTING count (masks, latency, score), those of DRAWING draw. Norms go
as raw float32 once for each snapshot and are kept there, those of a whole run as uint16 when it is first played;
nothing is sent while a hand drags.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from prune_core import InputError
from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.cuts import Cut, SurfaceKind
from prune_core.cutting.masks import BYTES, Norms
from prune_core.latency import executed
from prune_core.latency.profile import Batch, Profile, dtype_of
from prune_core.latency.strips import layers_of
from prune_core.latency.work import last_layer
from prune_core.precision.formats import Pattern
from prune_core.precision.storage import header_bytes
from prune_core.runs import settings
from prune_core.runs.run import Run
from prune_core.runs.snapshots import Snapshot
from prune_core.tasks.glue_folders import FOLDERS
from prune_core.tasks.metrics import in_words

HERE = Path(__file__).parent
COUNTING = ("unpack", "masks", "formats", "storage", "latency", "counts")
DRAWING = ("format", "theme", "histogram", "encoder_map", "snapshots", "player", "thresholds", "history", "score",
           "cards", "pins", "bits", "controls", "downloads", "teller", "view", "widget", "start")
PATTERNS = ("2:4", "1:4", "1:2", "4:8")  # that are offered
LEVELS = 65535  # of a norm in a frame
MOST_FRAMES = 100_000_000


@dataclass(frozen=True)
class Start:
    """What is in view when the run is opened, or after a command from the page."""

    cut: Cut
    key: str | None = None
    zoom: str | None = None
    pins: Sequence[Mapping] = ()


def part(kind: str) -> str:
    """html or css: what stands around the script."""
    return (HERE / f"view.{kind}").read_text(encoding="utf-8")


def script(names: Sequence[str] = COUNTING + DRAWING) -> str:
    """These files end to end: all of them are the one module that the browser runs."""
    return "\n".join((HERE / f"{name}.js").read_text(encoding="utf-8") for name in names)


def module() -> str:
    """All of it as one ES module that needs nothing beside it: what a notebook's widget runs."""
    parts = _json({kind: part(kind) for kind in ("html", "css")}).decode()
    return f"const PARTS = {parts};\n{script()}"


def pack(header: Mapping, norms: Norms, frames: np.ndarray | None = None, now: Mapping | None = None,
         there: Collection[str] = ()) -> bytes:
    """The length of what follows, JSON {id, header, now}, float32 norms of all matrices in order, uint16 frames.

    `id` stands for header and norms. Where it is one of those that are `there`, in this browser, both are left out.
    `now`: what may change beside them: a command, whether it is presented.
    """
    values = norms_bytes([one["name"] for one in header["matrices"]], norms)
    text = _json(header)
    name = hashlib.blake2b(text + values, digest_size=8).hexdigest()
    said = b'{"id":"%s","now":%s' % (name.encode(), _json(now or {}))
    said, values = (said + b"}", b"") if name in there else (said + b',"header":' + text + b"}", values)
    return struct.pack("<I", len(said)) + said + values + (b"" if frames is None else frames.astype("<u2").tobytes())


def _json(data: Mapping) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def groups(layout: Layout) -> int:
    """How many blocks the encoder has."""
    return sum(int(np.prod(layout.block.grid(m.m, m.n))) for m in layout.matrices)


def playable(run: Run) -> bool:
    """Whether all snapshots together are small enough to be sent to a browser and kept there: MOST_FRAMES bytes."""
    return 2 * groups(run.layout) * len(run.with_norms) <= MOST_FRAMES


def norms_bytes(names: Sequence[str], norms: Norms) -> bytes:
    """float32 norms of these matrices, end to end."""
    return np.concatenate([np.asarray(norms[name], "<f4").ravel() for name in names]).tobytes()


def header(run: Run, at: int, high: float, start: Start, usual: Cut, profile: Profile | None, batch: Batch,
           surfaces: Mapping[SurfaceKind, Sequence[SurfacePoint]] | None = None, dtype: str = "auto",
           mark: str = "") -> dict:
    """All that the browser needs besides norms, for snapshot `at`.

    `surfaces`: what cuts are predicted from, for one ranking; by default the snapshot's own. `dtype`: for which
    precision a speedup is predicted; `mark`: what stands on that number, where it is for another machine.
    """
    layout = run.layout
    surfaces = {usual.kind: run.snapshots[at].surface} if surfaces is None else surfaces
    sent = {
        "run": run.name, "moment": run.with_norms.index(at), "high": high,
        "modelWeights": layout.model_weights, "heads": run.heads, "layers": len(layers_of(layout)),
        "playable": playable(run), "hidden": max(m.n for m in layout.matrices if m.type != "output"),
        "last": last_layer(layout),
        "matrices": [{"name": m.name, "layer": m.layer, "type": m.type, "m": m.m, "n": m.n,
                      **dict(zip(("down", "across"), layout.block.grid(m.m, m.n), strict=True))}
                     for m in layout.matrices],
        "title": score_title(run), "exact": _weights(run, run.snapshots[at]), "bytes": _bytes(run),
        "patterns": {pattern: _unfit(pattern, layout) for pattern in PATTERNS},
        "moments": [_snapshot(run, position) for position in run.with_norms],
        "surfaces": _surfaces(surfaces), "usual": as_sent(usual),
        "start": {"cut": as_sent(start.cut), "key": start.key, "zoom": start.zoom, "pins": list(start.pins)}}
    return sent | {"precision": dtype} | ({"profile": priced(profile, layout, batch, dtype, mark)} if profile else {})


def as_sent(cut: Cut) -> dict:
    """A cut as the browser has it: how much goes, and the formats of what stays."""
    return cut.to_json() | {"formats": cut.formats}


def _bytes(run: Run) -> dict:
    """Bytes of all but the prunable matrices: in fp32, of a packed file's header; (rows, width) of the embeddings."""
    layout = run.layout
    return {"rest": BYTES * (layout.model_weights - layout.encoder_weights), "header": header_bytes(layout),
            "embeddings": run.embeddings}


def _unfit(pattern: str, layout: Layout) -> str:
    """Why this pattern does not go with these matrices and blocks; '' where it does."""
    try:
        Pattern.parse(pattern).check(layout)
    except InputError as error:
        return str(error)
    return ""


def priced(profile: Profile, layout: Layout, batch: Batch, dtype: str, mark: str) -> dict:
    """What a speedup is predicted from: paths, which may run in this precision for which formats (executed.py), and the
    best dense engine."""
    takes = executed.all_candidates(profile, dtype)
    names = [name for name in profile.paths if any(name in taken for taken, _ in takes.values())]
    paths = [{"name": name, "quantized": dtype_of(name) == "int8", **asdict(profile.paths[name].blocking),
              "prices": dict(profile.paths[name].ms)} for name in names]
    rival, ms = profile.best_rival(layout, batch)
    return {"batch": batch.batch, "length": batch.length, "paths": paths, "mark": mark,
            "takes": {kind: {"names": taken, "why": why} for kind, (taken, why) in takes.items()},
            "rival": {"name": rival, "ms": ms}}


def score_title(run: Run) -> str:
    """What the score of a run is: 'SST-2 accuracy', 'CoLA Matthews correlation', of a table of one's own its name."""
    return f"{task_title(run)} {in_words(run.metric.removesuffix('_matched'))}"


def task_title(run: Run) -> str:
    """The task as GLUE writes it, 'SST-2'; of a table of one's own its name."""
    return FOLDERS.get(run.task, run.task) if run.is_glue else "practice set" if run.is_practice else run.task


def _weights(run: Run, snapshot: Snapshot) -> bool:
    """Whether an exact score can come: a stage whose weights are there."""
    return bool(snapshot.saved) and run.has_weights(snapshot.saved)


def _snapshot(run: Run, at: int) -> dict:
    """What the browser is told of the snapshot with norms at position `at`."""
    snapshot = run.snapshots[at]
    return {"label": snapshot.label, "milestone": snapshot.milestone, "end": bool(snapshot.saved),
            "exact": _weights(run, snapshot), "surfaces": _surfaces({settings.usual(run, at).kind: snapshot.surface})}


def _surfaces(surfaces: Mapping[SurfaceKind, Sequence[SurfacePoint] | None]) -> dict[str, list[list[float]]]:
    """'scope', with formats 'scope formats' -> [sparsity, score, low, high] of points, each sparsity once, in order."""
    by_name = {}
    for kind, surface in surfaces.items():
        if points := {point.sparsity: point for point in surface or ()}:
            by_name[f"{kind.scope} {kind.formats}".strip()] = [
                [x, points[x].score, points[x].low, points[x].high] for x in sorted(points)]
    return by_name


def frames(run: Run) -> tuple[np.ndarray, float]:
    """((snapshots, groups) uint16, the norm that LEVELS stands for): all with norms. Exact zeros stay zeros."""
    rows = [np.concatenate([values.ravel() for values in run.norms(at).values()]) for at in run.with_norms]
    scale = float(max(row.max() for row in rows)) or 1.0
    return np.stack([np.ceil(np.minimum(row / scale, 1) * LEVELS).astype(np.uint16) for row in rows]), scale

