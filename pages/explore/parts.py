"""The parts of the encoder one by one: what is cut of each, what cutting it alone costs, thresholds of their own, the cheapest cut."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from pages.explore.view import View, send
from pages.shared import loaders, widgets
from pages.shared.loaders import SETTING
from pages.shared.widgets import download
from prune_core import InputError
from prune_core.cutting import allocate
from prune_core.cutting.answers import Sensitivity
from prune_core.cutting.blocks import Matrix
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import by_scope, scope_key, thresholds_for
from prune_core.runs.run import Run
from prune_core.showing import figures

KINDS = {"layer": "Layers", "matrix": "Matrices", "type": "Types"}


def show(run: Run, view: View) -> None:
    """The table of parts with its toggles and thresholds; sensitivities and the cut that they propose."""
    phase = view.snapshot.saved or "dense"
    points = run.sensitivity(phase)
    kind = st.segmented_control("Show", list(KINDS), default=view.cut.scope if view.cut.scope in KINDS else "layer", format_func=KINDS.get, required=True,
                                key="kind", label_visibility="collapsed")
    mine = [point for point in points if point.scope == kind]
    table(run, view, kind, mine)
    if not mine:
        st.info(f"What cutting one part alone costs was not recorded for {widgets.plain(phase)} yet. In a terminal, minutes: "
                f"`python -m prune_core sensitivity {run.name} --phase {phase} --by {kind}`", icon=":material/query_stats:")
        return
    dense = unpruned(run, phase)
    names = {key: called(key, matrices) for key, matrices in by_scope(run.layout, kind).items()}
    if view.cut.ranking == "norm":
        cheapest(run, view, kind, mine, dense)
    else:
        st.caption("Recorded for cuts by norm. " + ("Ranked by the surgeon, one threshold for the whole encoder already cuts where it costs least."
                                                    if view.cut.ranking == "surgeon" else "Rank blocks by norm to have the cheapest cut proposed."))
    st.markdown(f"**What cutting one part alone costs** at {widgets.plain(phase)}, exact scores of {mine[0].examples:,} dev examples")
    st.plotly_chart(figures.sensitivity_curves(mine, run.metric, dense, names, view.zoom if kind == "matrix" else None), key="sensitivity",
                    config=widgets.chart(), alt="Dev score over the share that is cut of one part alone")
    download("Sensitivities (CSV)", pd.DataFrame([vars(point) for point in points]), f"{run.name}-{phase}-sensitivity.csv")
    widgets.not_glue(run)


def unpruned(run: Run, phase: str) -> float:
    """The recorded score of these weights with nothing more cut."""
    return run.snapshots[run.saved(phase)].scores[run.metric]


def called(key: str, matrices: Sequence[Matrix]) -> str:
    """'layer 3 output' for a matrix; else the scope key itself."""
    return f"layer {matrices[0].layer} {matrices[0].type}" if key == matrices[0].name else key


def table(run: Run, view: View, kind: str, points: Sequence[Sensitivity]) -> None:
    """One row for each part: cut or not, at which threshold; both can be changed here, and the map follows."""
    groups, dense = by_scope(run.layout, kind), None if not points else unpruned(run, view.snapshot.saved or "dense")
    search = st.text_input("Search", key="search", placeholder="Search: layer 3, output, robust …", label_visibility="collapsed")
    rows = []
    for key, matrices in groups.items():
        kept, size = (sum(int(f(view.mask.kept[m.name])) for m in matrices) for f in (lambda v: v.sum(), lambda v: v.size))
        own = {view.thresholds[scope_key(m, view.cut.scope)] for m in matrices}
        rows.append({"key": key, "Part": called(key, matrices), "Cut it": max(own) > 0, "Threshold": max(own), "Cut": 1 - kept / size, "Blocks kept": kept,
                     "Alone": words([p for p in points if p.key == key], dense)})
    shown = pd.DataFrame([row for row in rows if search.lower() in f"{row['Part']} {row['Alone']}".lower()], columns=list(rows[0]))
    name = f"parts {run.name} {view.label} {kind} {search} {hash(tuple(view.thresholds.items()))}"  # changed anew: no edits are left over
    st.data_editor(shown, key=name, hide_index=True, height=38 + 35 * max(1, min(len(shown), 12)), on_change=edited,
                   args=(run, view, kind, name, shown), disabled=["Part", "Cut", "Blocks kept", "Alone"], column_config={
                       "key": None, "Cut": st.column_config.ProgressColumn("Cut", format="percent", min_value=0, max_value=1),
                       "Cut it": st.column_config.CheckboxColumn(width="small"),
                       "Threshold": st.column_config.NumberColumn(format="%.4f", min_value=0.0, step=0.0001),
                       "Alone": st.column_config.TextColumn("What cutting it alone costs", width="large")})
    download("Parts (CSV)", pd.DataFrame(rows), f"{run.name}-{view.label}-{kind}.csv")


def words(points: Sequence[Sensitivity], dense: float | None) -> str:
    """'robust: −0.2 points at 50%, −1.9 at 90%'."""
    if not points:
        return "not recorded"
    curve = sorted(points, key=lambda point: point.share)
    worst = max(dense - point.score for point in curve)
    half = max((dense - point.score for point in curve if point.share <= 0.5), default=worst)
    verdict = "sensitive" if half > 0.02 else "robust" if worst <= 0.02 else "robust up to half"
    return f"{verdict}: " + ", ".join(f"{100 * (point.score - dense):+.1f} at {point.share:.0%}" for point in curve).replace("-", "−") + " (points)"


def edited(run: Run, view: View, kind: str, name: str, shown: pd.DataFrame) -> None:
    """Toggles and thresholds that were changed become the cut, with a threshold of its own for each part."""
    thresholds = {key: max(view.thresholds[scope_key(m, view.cut.scope)] for m in matrices) for key, matrices in by_scope(run.layout, kind).items()}
    for row, change in st.session_state[name]["edited_rows"].items():
        key = shown.iloc[int(row)]["key"]
        if change.get("Threshold") is not None:
            thresholds[key] = float(change["Threshold"])
        if change.get("Cut it") is False:
            thresholds[key] = 0.0
        elif change.get("Cut it"):
            thresholds[key] = thresholds_for(view.norms, run.layout, min(0.99, max(0.25, view.mask.sparsity)), kind)[key]
    send(Cut(kind, None, thresholds))


def cheapest(run: Run, view: View, kind: str, points: Sequence[Sensitivity], dense: float) -> None:
    """Asks for a compression or a speedup, and proposes the thresholds that cost least by the recorded sensitivities."""
    profile = loaders.usual_profile()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        aim = st.segmented_control("Cheapest for the score", ["compression", "speedup"] if profile else ["compression"], default="compression",
                                   required=True, key="aim", help="A share for each part, so that the losses recorded for cutting it alone add up to the "
                                   "least. That they add up is a guess: look at the exact score.")
        value = st.number_input("at least", 1.05, 20.0, 2.0, 0.25, format="%.2f", key="aimed", width=150)
        st.button("Propose", icon=":material/auto_fix_high:", key="propose", on_click=propose, args=(run, view, kind, points, dense, aim, value))
    if refused := st.session_state.pop("refused", ""):
        st.error(widgets.plain(refused), icon=":material/error:")


def propose(run: Run, view: View, kind: str, points: Sequence[Sensitivity], dense: float, aim: str, value: float) -> None:
    """Have the map take over the cheapest cut for this compression or speedup; why there is none is said on the page."""
    profile = loaders.usual_profile()
    try:
        if aim == "compression":
            found = allocate.cheapest(view.norms, run.layout, points, kind, value, dense)
        else:
            found = allocate.faster(view.norms, run.layout, points, kind, value, dense, lambda mask: profile.speedup(mask, SETTING, run.heads))
    except InputError as error:
        st.session_state["refused"] = str(error)
        return
    send(Cut(kind, None, found))


def one_matrix(run: Run, view: View) -> None:
    """The matrix that the map shows large: its norms over time, its share of what is cut, what cutting it alone costs."""
    matrix = next(m for m in run.layout.matrices if m.name == view.zoom)
    cut = view.mask.matrix_sparsity(matrix.name) * matrix.m * matrix.n
    whole = view.mask.sparsity * run.layout.encoder_weights
    st.markdown(f"**{called(matrix.name, [matrix]).capitalize()}**: {view.mask.matrix_sparsity(matrix.name):.1%} of it is cut, which is "
                f"{cut / whole if whole else 0:.1%} of all that is cut; it has "
                f"{matrix.m * matrix.n / run.layout.encoder_weights:.1%} of the encoder's weights.")
    left, right = widgets.beside()
    with left:
        st.markdown("**Its norms over time**")
        labels, quantiles = loaders.quantiles(run, matrix.name)
        st.plotly_chart(figures.norms_over_time(labels, quantiles, run.with_norms.index(view.at)), key="over time", config=widgets.chart(),
                        alt="Quantiles of this matrix's block norms at every recorded moment")
        table = pd.DataFrame(quantiles, columns=["q05", "q25", "q50", "q75", "q95"])
        table.insert(0, "moment", labels)
        download("Norms over time (CSV)", table, f"{run.name}-{matrix.name}-over-time.csv")
    with right:
        phase = view.snapshot.saved or "dense"
        mine = [point for point in run.sensitivity(phase) if point.key == matrix.name]
        st.markdown(f"**What cutting it alone costs** at {widgets.plain(phase)}")
        if mine:
            st.plotly_chart(figures.sensitivity_curves(mine, run.metric, unpruned(run, phase), {matrix.name: called(matrix.name, [matrix])}),
                            key="alone", config=widgets.chart(), alt="Dev score over the share of this matrix that is cut")
        else:
            st.caption(f"Not recorded yet: `python -m prune_core sensitivity {run.name} --phase {phase}`")
