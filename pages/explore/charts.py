"""Explore: the charts that follow the map."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from pages.explore import bits
from pages.explore.exact_score import scope_words
from pages.explore.view import View, precision
from pages.shared import copying, loaders, widgets
from pages.shared.loaders import SETTING
from pages.shared.widgets import download
from prune_core.cutting.answers import SurfacePoint
from prune_core.cutting.cuts import SurfaceKind
from prune_core.latency import executed
from prune_core.latency.profile import Profile
from prune_core.precision.formats import parse
from prune_core.runs.run import Run
from prune_core.showing import figures, published
from prune_core.showing.published import Published
from prune_core.tasks.metrics import in_words


def curves(run: Run, view: View, taken: list[tuple[float, float]]) -> None:
    """Score and speedup over compression: the present setting, the pinned ones, on request other runs and publications.

    `taken`: (sparsity, exact score) of the cuts that were scored in this session.
    """
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        others = other_runs(run)
        known = published.of(run.task, run.metric) if run.is_glue else []
        shown = known if known and st.toggle(
            "Published points", key="published",
            help="Results reported by others, on other models; not measured here. Open grey marks.",
        ) else []
    left, right = widgets.beside()
    with left:
        scores(run, view, taken, others, shown)
    with right:
        speedups(run, view, shown)
    place = st.empty()  # always sent: what a fragment only leaves out may stay where another question comes as it ends
    if view.pins:
        with place.container():
            compared(run, view)


def other_runs(run: Run) -> list[Run]:
    """Those of the same task that the person chose."""
    alike = [entry.name for entry in loaders.listed()
             if entry.run and entry.run.task == run.task and entry.run.points and entry.name != run.name]
    if not alike:
        return []
    names = st.multiselect("Other runs", alike, key="others", width=360, placeholder="of the same task")
    return [loaders.run(name) for name in names]


def scores(run: Run, view: View, taken: list[tuple[float, float]], others: list[Run],
           shown: Sequence[Published]) -> None:
    """Dev score over compression, and the CSV of the recorded surfaces."""
    st.markdown(f"**Dev score over compression** at {widgets.plain(view.label)}")
    retrained = {f"{other.name}, retrained": pairs for other in (run, *others) if (pairs := _retrained(other))}
    surface = view.surface or next(iter(_alike(view).values()), ())
    pinned = _pinned(view, "score")
    if not (surface or retrained or taken or pinned or shown):
        st.caption("No scores to draw yet: they are recorded at the end of a phase (dense, penalty, retrained).")
        return
    figure = figures.score_curve(
        run.metric, surface=surface, dense=run.dense_score, majority=run.majority_score, retrained=retrained,
        here=view.mask.sparsity if view.surface else None,  # only where the surface holds for this cut
        others={kind_words(kind): points for kind, points in _others(view).items()},
        exact=[(1 / (1 - x), y) for x, y in taken if x < 1], pins=pinned, published=shown)
    copying.chart(figure, key="surface", alt="Dev score over encoder compression")
    if view.cut.formats and _alike(view) and not any(kind.formats for kind in _alike(view)):
        st.caption(f"The curve is of fp32: none was recorded in {widgets.plain(view.formats.words)}.")
    if view.sparsity > view.mask.sparsity:
        st.caption("Along the curve compression counts the blocks alone; pins and exact scores count the pattern too.")
    if view.surfaces:
        table = pd.DataFrame([{"scope": kind.scope, "formats": kind.formats} | vars(point)
                              for kind, points in view.surfaces.items() for point in points])
        download(f"Recorded scores of {view.label} (CSV)", table, f"{run.name}-{view.label}-surface.csv")
    else:
        st.caption("No scores were recorded for cuts of this snapshot. Stages (dense, penalty, retrained) have them.")


def _alike(view: View) -> dict[SurfaceKind, Sequence[SurfacePoint]]:
    """The recorded surfaces in the formats in view; where there are none, those in fp32."""
    of = {formats: {kind: points for kind, points in view.surfaces.items() if kind.formats == formats}
          for formats in (view.cut.formats, "")}
    return of[view.cut.formats] or of[""]


def _others(view: View) -> dict[SurfaceKind, Sequence[SurfacePoint]]:
    """Surfaces that belong to the formats in view, besides their own: fp32, and each of several formats."""
    if not view.cut.formats:
        return {}
    wanted = ["", *bits.uniform(view.formats, view.mask.layout)]
    kinds = [SurfaceKind(view.cut.ranking, view.cut.scope, view.cut.repaired, text) for text in wanted]
    return {kind: view.surfaces[kind] for kind in kinds
            if kind in view.surfaces and view.surfaces[kind] is not next(iter(_alike(view).values()), None)}


def kind_words(kind: SurfaceKind) -> str:
    """'recorded in 8 bits'."""
    return f"recorded in {parse(kind.formats).words}"


def speedups(run: Run, view: View, shown: Sequence[Published]) -> None:
    """Predicted speedup over compression for the chosen precision, and its CSV."""
    profile, dtype = loaders.usual_profile(), precision()
    st.markdown(f"**{_speedup_title(profile, ' over compression')}**")
    if not profile:
        st.caption("Predictions need a latency profile: calibrate this machine on **Speed**.")
        return
    runs = executed.restricted(profile, view.formats, dtype)  # what executes the formats in view
    pairs = loaders.speedups(run, view.at, run.config.scope, runs, SETTING)
    present = (view.mask.compression_encoder, runs.speedup(view.mask, SETTING, run.heads))
    stored = f",<br>{view.formats.words}" * bool(view.cut.formats)
    name = f"predicted, ranked by norm, {scope_words(run.config.scope)}{stored}"  # of several lines, as a legend clips
    figure = figures.speedup_curve({name: pairs}, here=present, pins=_pinned(view, "speedup"), published=shown)
    copying.chart(figure, key="speedups", alt="Predicted speedup over encoder compression, with the proportional line")
    download("Speedups (CSV)", pd.DataFrame(pairs, columns=["compression_encoder", "predicted_speedup"]),
             f"{run.name}-{view.label}-speedups.csv")


def _speedup_title(profile: Profile | None, over: str = "") -> str:
    """'Predicted speedup', with the machine where it is not this one."""
    where = widgets.mark(profile) if profile else ""
    return f"Predicted speedup{over} {widgets.plain(where)}".strip()


def _retrained(run: Run) -> list[tuple[float, float]]:
    """(compression, score) of the run's own points after retraining."""
    return [(p["compression_encoder"], p["score_retrained"]) for p in run.points if p["score_retrained"] is not None]


def _pinned(view: View, number: str) -> dict[str, tuple[float, float]]:
    """Pin -> (compression, this number), where it has both."""
    return {pin["name"]: (pin["numbers"]["encoder"], pin["numbers"][number]) for pin in view.pins
            if pin["numbers"].get("encoder") and pin["numbers"].get(number) is not None}


def compared(run: Run, view: View) -> None:
    """The present setting and the pinned ones side by side, with what the present one has more or less than each."""
    now = bits.numbers(run, view.cut, view.mask, view.surfaces, precision())
    profile = loaders.usual_profile()
    names = {"sparsity": "Sparsity", "encoder": "Encoder compression", "model": "Model compression",
             "encoderBytes": "Encoder, MB", "bytes": "Model, MB",
             "speedup": _speedup_title(profile), "score": f"Predicted {in_words(run.metric)}"}
    columns: dict[str, list] = {"": list(names.values()), "present": [now[name] for name in names]}
    for pin in view.pins:
        values = [pin["numbers"].get(name) for name in names]
        columns[pin["name"]] = values
        columns[f"present − {pin['name']}"] = [None if a is None or b is None else a - b
                                               for a, b in zip(columns["present"], values, strict=True)]
    table = pd.DataFrame(columns)
    st.markdown("**Pinned settings beside the present one**")
    forms = [FORMS[name] for name in names]
    copying.table(pd.DataFrame({title: _in_words(values, forms, "−" in title) if title else values
                                for title, values in columns.items()}), key="pinned")
    download("Comparison (CSV)", table, f"{run.name}-compared.csv")


# Of a number in the table of pinned settings: its unit's size, its digits, what stands after it
FORMS = {"sparsity": (100, 1, "%"), "encoder": (1, 2, "x"), "model": (1, 2, "x"), "speedup": (1, 2, "x"),
         "encoderBytes": (1e-6, 2, ""), "bytes": (1e-6, 2, ""), "score": (1, 3, "")}


def _in_words(values: Sequence[float | None], forms: Sequence[tuple[float, int, str]], signed: bool) -> list[str]:
    """Numbers as they are read, one a row: '33.4%', '2.01x', '+0.012'; a dash for none."""
    return ["–" if value is None else f"{size * value:{'+' if signed else ''}.{digits}f}{unit}".replace("-", "−")
            for value, (size, digits, unit) in zip(values, forms, strict=True)]


def points(run: Run) -> None:
    """The run's own results, one row per compression, and their CSV."""
    table = pd.DataFrame(run.points)
    if table.empty:
        st.caption("No compression has been reached yet.")
        return
    three, metric = {"format": "%.3f"}, in_words(run.metric, first=True)
    copying.table(table.assign(sparsity=100 * table["sparsity"]), key="results", placeholder="–", column_config={
        "compression": st.column_config.NumberColumn("Target", format="%.3gx"),
        "sparsity": st.column_config.NumberColumn("Sparsity", format="%.1f%%"),
        "compression_encoder": st.column_config.NumberColumn("Encoder compression", format="%.2fx"),
        "compression_model": st.column_config.NumberColumn("Model compression", format="%.2fx"),
        "score_thresholded": st.column_config.NumberColumn(f"{metric}, thresholded", **three),
        "score_retrained": st.column_config.NumberColumn(f"{metric}, retrained", **three)})
    download("Points (CSV)", table, f"{run.name}-points.csv")


def course(run: Run) -> None:
    """Loss, penalty, zeros and scores over the steps, and their CSV."""
    if not any(s.loss is not None or s.scores for s in run.snapshots):
        st.caption("No step of training has been recorded yet.")
        return
    copying.chart(figures.history(run.snapshots, run.metric), key="history",
                  alt="Training loss, penalty, share of zero weights and dev score over the steps")
    if (drawn := figures.residuals(run.snapshots)) is not None:
        st.caption("ADMM: how far the weights are from the pruned or rounded copy that they are drawn to, and how far "
                   "that copy moves. Both fall as the two come to agree.")
        copying.chart(drawn, key="residuals", alt="Residuals of ADMM over the steps")
    table = pd.DataFrame([{"phase": s.phase, "step": s.step, "loss": s.loss, "penalty": s.penalty, "lambda": s.lam,
                           "zero_share": s.zero_share, **(s.residuals or {}),
                           run.metric: (s.scores or {}).get(run.metric)}
                          for s in run.snapshots])
    download("Training history (CSV)", table, f"{run.name}-history.csv")
