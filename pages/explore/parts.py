"""The parts of the encoder one by one: what is cut of each, what cutting it alone costs, thresholds of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import streamlit as st

from pages.explore import bits, proposals
from pages.explore.view import View, send
from pages.shared import copying, jobs, loaders, widgets
from pages.shared.widgets import download
from prune_core.cutting import sensitive
from prune_core.cutting.answers import Sensitivity
from prune_core.cutting.blocks import Matrix
from prune_core.cutting.masks import by_scope, scope_key, thresholds_for
from prune_core.precision.formats import Format, Formats
from prune_core.runs.run import Run
from prune_core.runs.stages import DENSE
from prune_core.showing import figures

KINDS_IN_WORDS = {"attention.output": "attention output", "output": "feed-forward output"}  # two outputs, told apart
SHARES = 4  # of each part, at which `sensitivity` scores
NUMBERS = ("32", "16", "8", "4", "3", "2", "ternary", "binary", "clusters-4", "2:4", "8/2:4", "4/2:4")  # of a part
KINDS = {"layer": "Layers", "matrix": "Matrices", "type": "Types"}


def show(run: Run, view: View) -> None:
    """The table of parts with its toggles and thresholds; a cut for a loss or a speedup; sensitivities."""
    stage = view.snapshot.saved or DENSE
    points = run.sensitivity(stage)
    kind = st.segmented_control("Show", list(KINDS), default=view.cut.scope if view.cut.scope in KINDS else "layer",
                                format_func=KINDS.get, required=True, key="kind", label_visibility="collapsed")
    mine = [point for point in points if point.scope == kind]
    names = {key: called(key, matrices) for key, matrices in by_scope(run.layout, kind).items()}
    if mine and not begun(run, kind, mine):
        shown = {key: widgets.plain(name) for key, name in names.items()}
        st.markdown(sensitive.sentence(mine, unpruned(run, stage), shown, kind))
    table(run, view, kind, mine)
    if begun(run, kind, mine):
        record(run, stage, kind, len(mine))
    proposals.show(run, view)
    if not mine:
        return
    dense = unpruned(run, stage)
    st.markdown(f"**Cost of cutting only one part** at {widgets.plain(stage)}, "
                f"exact scores of {mine[0].examples:,} dev examples")
    figure = figures.sensitivity_curves(mine, run.metric, dense, names, view.zoom if kind == "matrix" else None)
    copying.chart(figure, key="sensitivity", alt="Dev score over the share that is cut of one part alone")
    download("Sensitivities (CSV)", pd.DataFrame([vars(point) for point in points]),
             f"{run.name}-{stage}-sensitivity.csv")
    widgets.not_glue(run)


def begun(run: Run, kind: str, points: Sequence[Sensitivity]) -> bool:
    """Whether sensitivities of these parts are still missing, all or some."""
    counts = Counter(point.key for point in points)
    return len(counts) < len(by_scope(run.layout, kind)) or len(set(counts.values())) > 1


def record(run: Run, stage: str, kind: str, there: int) -> None:
    """That sensitivities of such parts of this stage are not all recorded, and the button that records them."""
    so_far = f": {there} scores are there" if there else ""
    st.caption(f"The cost of cutting only one {kind} was not recorded for {widgets.plain(stage)} yet{so_far}.")
    if not run.has_weights(stage):
        st.caption("It takes the weights of this stage, which are not included.")
        return
    scores = len(by_scope(run.layout, kind)) * SHARES
    jobs.job(f"sensitivity {run.name} {stage} {kind}", f"Record it for each {kind}",
             jobs.seconds_of(run, stage, max(1, scores - there)),
             jobs.command(run, stage, "sensitivity", f"--by={kind}"),
             f"{scores} exact scores: of each {kind} with a quarter, half, three quarters and nine tenths cut.")


def unpruned(run: Run, stage: str) -> float:
    """The recorded score of these weights with nothing more cut."""
    return run.snapshots[run.saved(stage)].scores[run.metric]


def called(key: str, matrices: Sequence[Matrix]) -> str:
    """'layer 3 feed-forward output' for a matrix, 'feed-forward output' for a type; else the scope key itself."""
    kind = KINDS_IN_WORDS.get(matrices[0].type, matrices[0].type)
    if key == matrices[0].name:
        return f"layer {matrices[0].layer} {kind}"
    return kind if key == matrices[0].type else key


def table(run: Run, view: View, kind: str, points: Sequence[Sensitivity]) -> None:
    """One row for each part: cut or not, at which threshold; both can be changed here, and the map follows."""
    search = st.text_input("Search", key="search", placeholder="Search: layer 3, output, robust …",
                           label_visibility="collapsed")
    rows = rows_of(run, view, kind, points)
    shown = [row for row in rows if search.lower() in f"{row['Part']} {row['Alone']}".lower()]
    shown = pd.DataFrame(shown, columns=list(rows[0]))
    # Another name whenever the cut has changed: no edits are left over
    name = f"parts {run.name} {view.label} {kind} {search} {hash((view.cut.formats, *view.thresholds.items()))}"
    st.data_editor(
        shown, key=name, hide_index=True, height=38 + 35 * max(1, min(len(shown), 12)), on_change=edited,
        args=(run, view, kind, name, shown), disabled=["Part", "Cut", "Blocks kept", "MB", "Alone"], column_config={
            "key": None, "Cut": st.column_config.ProgressColumn("Cut", format="percent", min_value=0, max_value=1),
            "Cut it": st.column_config.CheckboxColumn(width="small"),
            "Threshold": st.column_config.NumberColumn(format="%.4g", min_value=0.0),
            "Bits": st.column_config.SelectboxColumn(options=list(dict.fromkeys([*NUMBERS, *shown["Bits"]])),
                                                     required=True, help="In which format the kept weights are stored; "
                                                                         "32 is fp32, 16 bf16"),
            "MB": st.column_config.NumberColumn(format="%.3f", help="Values, index and scales as they are stored"),
            "Alone": st.column_config.TextColumn("Cost of cutting only this, in points", width="large")})
    copying.control("layers and matrices", copying.markdown(shown.drop(columns="key")))
    download("Layers and matrices (CSV)", pd.DataFrame(rows), f"{run.name}-{view.label}-{kind}.csv")


def rows_of(run: Run, view: View, kind: str, points: Sequence[Sensitivity]) -> list[dict]:
    """What the table says of each part."""
    dense, rows = unpruned(run, view.snapshot.saved or DENSE) if points else None, []
    formats, bytes_of = view.formats.of(run.layout), bits.stored(run, view.cut, view.mask).matrices
    for key, matrices in by_scope(run.layout, kind).items():
        kept = sum(int(view.mask.kept[m.name].sum()) for m in matrices)
        blocks = sum(view.mask.kept[m.name].size for m in matrices)
        threshold = max(view.thresholds[scope_key(m, view.cut.scope)] for m in matrices)
        rows.append({"key": key, "Part": called(key, matrices), "Cut it": threshold > 0, "Threshold": threshold,
                     "Cut": 1 - kept / blocks, "Blocks kept": kept,
                     "Bits": " | ".join(dict.fromkeys(str(formats[m.name]) for m in matrices)),
                     "MB": sum(bytes_of[m.name].stored for m in matrices) / 1e6,
                     "Alone": sensitive.verdict([point for point in points if point.key == key], dense)})
    return rows


def edited(run: Run, view: View, kind: str, name: str, shown: pd.DataFrame) -> None:
    """What was changed becomes the cut, with a threshold of its own for each part where thresholds were; bits too."""
    changes = {shown.iloc[int(row)]["key"]: change for row, change in st.session_state[name]["edited_rows"].items()}
    cut = replace(view.cut, formats=formats_of(run, view, kind, changes))
    if all(change.keys() <= {"Bits"} for change in changes.values()):
        send(cut)
        return
    thresholds = {key: max(view.thresholds[scope_key(m, view.cut.scope)] for m in matrices)
                  for key, matrices in by_scope(run.layout, kind).items()}
    share = min(0.99, max(0.25, view.mask.sparsity))  # of a part that is now to be cut
    for key, change in changes.items():
        if change.get("Threshold") is not None:
            thresholds[key] = float(change["Threshold"])
        if change.get("Cut it") is False:
            thresholds[key] = 0.0
        elif change.get("Cut it"):
            thresholds[key] = thresholds_for(view.norms, run.layout, share, kind)[key]
    send(replace(cut, scope=kind, share=None, thresholds=thresholds))


def formats_of(run: Run, view: View, kind: str, changes: Mapping[str, Mapping]) -> str:
    """The formats in view with those of parts that were changed: scope key -> {"Bits": '8'}."""
    formats = view.formats.of(run.layout)
    for key, matrices in by_scope(run.layout, kind).items():
        if "|" not in (text := changes.get(key, {}).get("Bits") or "|"):
            formats |= {m.name: Format.parse(text) for m in matrices}
    if formats == view.formats.of(run.layout):
        return view.cut.formats
    return str(Formats.of_each(run.layout, formats, activations=view.formats.activations,
                               embeddings=view.formats.embeddings))


def one_matrix(run: Run, view: View) -> None:
    """The matrix that the map shows large: its share of the cut, its norms over time, what cutting it alone costs."""
    matrix = next(m for m in run.layout.matrices if m.name == view.zoom)
    sparsity, weights = view.mask.matrix_sparsity(matrix.name), matrix.m * matrix.n
    whole = view.mask.sparsity * run.layout.encoder_weights
    st.markdown(f"**{called(matrix.name, [matrix]).capitalize()}**: {sparsity:.1%} of it is cut, which is "
                f"{sparsity * weights / whole if whole else 0:.1%} of all that is cut; it has "
                f"{weights / run.layout.encoder_weights:.1%} of the encoder's weights.")
    left, right = widgets.beside()
    with left:
        over_time(run, view, matrix)
    with right:
        alone(run, view, matrix)


def over_time(run: Run, view: View, matrix: Matrix) -> None:
    """Quantiles of the norms of one matrix at every snapshot, and their CSV."""
    st.markdown("**Its norms over time**")
    labels, quantiles = loaders.quantiles(run, matrix.name)
    copying.chart(figures.norms_over_time(labels, quantiles, run.with_norms.index(view.at)), key="over time",
                  alt="Quantiles of this matrix's block norms at every snapshot")
    table = pd.DataFrame(quantiles, columns=["q05", "q25", "q50", "q75", "q95"])
    table.insert(0, "snapshot", labels)
    download("Norms over time (CSV)", table, f"{run.name}-{matrix.name}-over-time.csv")


def alone(run: Run, view: View, matrix: Matrix) -> None:
    """What cutting one matrix alone costs, or how to have it recorded."""
    stage = view.snapshot.saved or DENSE
    mine = [point for point in run.sensitivity(stage) if point.key == matrix.name]
    st.markdown(f"**Cost of cutting only this** at {widgets.plain(stage)}")
    if not mine:
        st.caption("Not recorded yet: below, **Layers and matrices** has a button that records it for each matrix.")
        return
    names = {matrix.name: called(matrix.name, [matrix])}
    copying.chart(figures.sensitivity_curves(mine, run.metric, unpruned(run, stage), names), key="alone",
                  alt="Dev score over the share of this matrix that is cut")
