"""What a cut costs: predicted from the recorded surface, exact a moment later; the run's own points, as tables and files."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from pages.shared import again, loaders, widgets
from pages.shared.asker import Answer, Question
from pages.shared.views import View
from prune_core import figures, published
from prune_core.masks import zero_share
from prune_core.runs import Run
from prune_core.trajectory import predict


def words(run: Run, view: View) -> None:
    """What Python counts for the present cut, in words: where the predicted numbers are from, and how sure they are."""
    mask, snapshot = view.mask, view.snapshot
    kept, blocks = (sum(int(f(v)) for v in mask.kept.values()) for f in (lambda v: v.sum(), lambda v: v.size))
    zeros = zero_share(view.norms, run.layout)
    said = (f"{kept:,} of {blocks:,} blocks are kept at {widgets.plain(view.label)}, sparsity {mask.sparsity:.1%}. Compression is dense / kept weights: of "
            "the prunable matrices (encoder), and of the whole model, embeddings included. ")
    if zeros > 0.001:
        said += f"Training has brought {zeros:.1%} to exactly zero. "
    if view.surface:
        _, low, high = predict(view.surface, mask.sparsity)
        repaired = ", repaired after cutting" if st.session_state.get("repair") else ""
        said += (f"The {run.metric.replace('_', ' ')} is **predicted from the recorded surface** of {snapshot.saved}{repaired}, without "
                 f"retraining: 95% interval {low:.3f} – {high:.3f}, {scope_words(view)}.")
    elif view.surfaces:
        said += (f"Surfaces were recorded here for cuts alike for {' or '.join(view.surfaces)}: the dimmed score is what such a cut of the same sparsity "
                 "would have.")
    else:
        said += "No score is predicted here: no surface was recorded for such cuts at this moment (`python -m prune_core surface`)."
    if profile := next(iter(loaders.profiles().items()), None):
        said += (f" The speedup is **predicted** for {profile[0].removeprefix('this machine (').removesuffix(')')}, {loaders.SETTING.batch} sentences of "
                 f"{loaders.SETTING.length} tokens, compact against dense torch, median error {profile[1].error:.0%}; **Speed** has more.")
    else:
        said += " No speedup is predicted: **Speed** can calibrate this machine."
    st.caption(said)


def scope_words(view: View) -> str:
    """What shared one threshold when the surface was recorded."""
    return "one threshold for the whole encoder" if view.cut.scope == "global" else f"the same share of each {view.cut.scope}"


def exact(run: Run, view: View) -> None:
    """The exact dev score of what is in view, which comes by itself."""
    snapshot = view.snapshot
    if not snapshot.saved or not (run.path / "weights" / f"{snapshot.saved}.safetensors").exists():
        why = "Weights are kept at the ends of phases only: choose one of them" if not snapshot.saved else (
            f"This copy ships without the weights of {snapshot.saved}. Make them with {widgets.code(run.command())}")
        st.caption(f":material/fact_check: No exact score here. {why}.")
        return
    _row(run, _question(run, view))


def _question(run: Run, view: View) -> Question:
    """What is asked for the cut in view."""
    return Question(str(run.path), view.snapshot.saved or "", view.cut.scope, tuple(view.thresholds.items()), data(),
                    bool(st.session_state.get("repair")), view.score)


def taken(run: Run, view: View) -> list[tuple[float, float]]:
    """(sparsity, exact score) of every cut of these weights, ranked and repaired alike, that was scored in this session."""
    asked = _question(run, view)
    return [(one["sparsity"], one["score"]) for q, one in st.session_state.get("exact scores", {}).items()
            if (q.run, q.phase, q.repair, q.score) == (asked.run, asked.phase, asked.repair, asked.score)]


@st.fragment
def _row(run: Run, question: Question) -> None:
    """How the answer stands: as high before as after, so that nothing below it jumps. Runs again by itself until it is there."""
    asker = loaders.asker()
    refused = asker.failed_alike(question)  # the data is not there, say: no other threshold would find it
    answer = Answer("failed", error=refused) if refused else asker.want(widgets.session(), question)
    if answer.doing == "done":
        st.session_state.setdefault("exact scores", {})[question] = answer.result
    name = run.metric.replace("_", " ")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if answer.doing == "failed":
            why, _, advice = answer.error.partition("; give --data ")  # a command's advice; here there is a field for it
            st.markdown(f":material/error: **No exact score:** {widgets.plain(why)}" + (". Say in the sidebar where it is." if advice else ""), width="content")
            if st.button("Try again", icon=":material/refresh:", type="tertiary"):
                asker.forget_failures()
                st.rerun()
        elif answer.doing == "done":
            found = answer.result
            repaired = ", repaired after cutting" if question.repair else ""
            st.markdown(f":material/fact_check: Exact dev {name}{repaired} **{found['score']:.4f}**, 95% interval {found['low']:.3f} – {found['high']:.3f} "
                        f"({found['examples']:,} examples, {_took(found['seconds'])})", width="content")
        elif answer.score is not None:
            st.markdown(f":material/hourglass_top: {name.capitalize()} so far **{answer.score:.3f}**, 95% interval {answer.low:.3f} – "
                        f"{answer.high:.3f}, {answer.done:,} of {answer.total:,} examples", width="content")
        else:
            ahead = asker.ahead(question)
            words = {"loading": "loading weights and data, once"}.get(answer.doing, f"{ahead} before it" if ahead else "starting")
            st.markdown(f":material/hourglass_top: Exact dev {name}: {words} …", width="content")
    again.soon(0 if answer.ended else 250 * (1 + asker.waiting()))


def ranking(run: Run) -> None:
    """What the thresholds are on, asked for in the sidebar, where more than norms was recorded."""
    kinds = list(dict.fromkeys(kind for phase in run.saved_names for kind in run.ranked(phase)))
    if len(kinds) > 1:
        words = {"norm": "norm", "activation": "norm × inputs it meets", "taylor": "gradient (Taylor)", "loss": "least-squares loss",
                 "surgeon": "surgeon (loss in turn × gradient)"}
        st.selectbox("Rank blocks by", kinds, format_func=lambda kind: words.get(kind, kind), key="score", bind="query-params",
                     help="What the thresholds and the colours are on. Others than the norm are recorded for some moments only "
                          "(`python -m prune_core score`); elsewhere it is the norm.")


def exact_settings(run: Run) -> None:
    """How exact scores are taken, asked for in the sidebar: repaired or not, and where the task's data is."""
    st.toggle("Repair after cutting", key="repair", bind="query-params", help="Moves the weights that are kept to where the outputs of every matrix "
              "are nearest to those before the cut: in closed form from 1,024 training sentences, no training. Exact scores only.")
    widgets.data_field(run.data, on_change=loaders.asker().forget_failures)


def data() -> str:
    """The folder that was said; '' for where the run had it."""
    return loaders.data_folder() if loaders.read_only() else str(st.session_state.get("data", loaders.data_folder()) or "").strip()


def _took(seconds: float) -> str:
    """'0.9 s', or that it was not computed now."""
    return f"{seconds:.1f} s" if seconds >= 0.02 else "known from before"


def curves(run: Run, view: View, taken: list[tuple[float, float]]) -> None:
    """Score and speedup over compression, with the present setting, the pinned ones, and on request other runs and what others published."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        alike = [one.name for one in loaders.listed() if one.run and one.run.task == run.task and one.run.points and one.name != run.name]
        chosen = st.multiselect("Other runs", alike, key="others", width=360, placeholder="of the same task") if alike else []
        others = published.of(run.task, run.metric) if run.is_glue else []
        shown = others if others and st.toggle("Published points", key="published", help="Of other methods on other models, as their sources tell them: "
                                               "never measured here. Open grey marks.") else []
    left, right = widgets.beside()
    with left:
        st.markdown(f"**Dev score over compression** at {widgets.plain(view.label)}")
        retrained = {f"{one.name}, retrained": _retrained(one) for one in (run, *(loaders.run(name) for name in chosen)) if _retrained(one)}
        surface = view.surface or next(iter(view.surfaces.values()), ())  # the mark for here only where it holds for this cut
        figure = figures.score_curve(run.metric, surface=surface, here=view.mask.sparsity if view.surface else None, dense=run.dense_score,
                                     majority=run.majority_score, retrained=retrained, exact=[(1 / (1 - x), y) for x, y in taken if x < 1],
                                     pins=_pinned(view, "score"), published=shown)
        st.plotly_chart(figure, key="surface", config=widgets.chart(), alt="Dev score over encoder compression")
        if view.surfaces:
            table = pd.DataFrame([{"scope": scope} | vars(point) for scope, points in view.surfaces.items() for point in points])
            download(f"Surfaces of {view.label} (CSV)", table, f"{run.name}-{view.label}-surface.csv")
        else:
            st.caption("No score surface was recorded at this moment: it is at the ends of phases.")
    with right:
        st.markdown("**Predicted speedup over compression**")
        if profile := loaders.usual_profile():
            pairs = loaders.speedups(run, view.at, run.config.scope, profile, loaders.SETTING)
            here = (view.mask.compression_encoder, profile.speedup(view.mask, loaders.SETTING, run.heads))
            name = f"predicted, by norm, scope {run.config.scope}"
            figure = figures.speedup_curve({name: pairs}, here=here, pins=_pinned(view, "speedup"), published=shown)
            st.plotly_chart(figure, key="speedups", config=widgets.chart(), alt="Predicted speedup over encoder compression, with the ideal line")
            download("Speedups (CSV)", pd.DataFrame(pairs, columns=["compression_encoder", "predicted_speedup"]), f"{run.name}-{view.label}-speedups.csv")
        else:
            st.caption("Predictions need times from a machine: calibrate this one on **Speed**.")
    if view.pins:
        compared(run, view)


def _retrained(run: Run) -> list[tuple[float, float]]:
    """(compression, score) of the run's own points after retraining."""
    return [(p["compression_encoder"], p["score_retrained"]) for p in run.points if p["score_retrained"] is not None]


def _pinned(view: View, number: str) -> dict[str, tuple[float, float]]:
    """Pin -> (compression, this number), where it has both."""
    return {pin["name"]: (pin["numbers"]["encoder"], pin["numbers"][number]) for pin in view.pins
            if pin["numbers"].get("encoder") and pin["numbers"].get(number) is not None}


def compared(run: Run, view: View) -> None:
    """The present setting and the pinned ones side by side, with what the present one has more or less than each."""
    profile = loaders.usual_profile()
    now = {"sparsity": view.mask.sparsity, "encoder": view.mask.compression_encoder, "model": view.mask.compression_model,
           "speedup": profile.speedup(view.mask, loaders.SETTING, run.heads) if profile else None,
           "score": predict(view.surface, view.mask.sparsity)[0] if view.surface else None}
    names = {"sparsity": "Sparsity", "encoder": "Encoder compression", "model": "Model compression", "speedup": "Predicted speedup",
             "score": f"Predicted {run.metric.replace('_', ' ')}"}
    columns: dict[str, list] = {"": list(names.values()), "present": [now[name] for name in names]}
    for pin in view.pins:
        values = [pin["numbers"].get(name) for name in names]
        columns[pin["name"]] = values
        columns[f"present − {pin['name']}"] = [None if a is None or b is None else a - b for a, b in zip(columns["present"], values, strict=True)]
    table = pd.DataFrame(columns)
    st.markdown("**Pinned settings beside the present one**")
    st.dataframe(table, hide_index=True, column_config={name: st.column_config.NumberColumn(format="%+.3f" if "−" in name else "%.3f")
                                                        for name in columns if name})
    download("Comparison (CSV)", table, f"{run.name}-compared.csv")


def points(run: Run) -> None:
    """The run's own results, one row per compression, and their CSV."""
    table = pd.DataFrame(run.points)
    if table.empty:
        return
    three = {"format": "%.3f"}
    st.dataframe(table, hide_index=True, column_config={
        "compression": st.column_config.NumberColumn("Asked for", format="%.3gx"),
        "sparsity": st.column_config.NumberColumn("Sparsity", format="percent"),
        "compression_encoder": st.column_config.NumberColumn("Encoder compression", format="%.2fx"),
        "compression_model": st.column_config.NumberColumn("Model compression", format="%.2fx"),
        "score_thresholded": st.column_config.NumberColumn(f"{run.metric}, thresholded", **three),
        "score_retrained": st.column_config.NumberColumn(f"{run.metric}, retrained", **three)})
    download("Points (CSV)", table, f"{run.name}-points.csv")


def course(run: Run) -> None:
    """Loss, penalty, zeros and scores over the steps, and their CSV."""
    st.plotly_chart(figures.history(run.snapshots, run.metric), key="history", config=widgets.chart(),
                    alt="Training loss, penalty, share of zero weights and dev score over the steps")
    table = pd.DataFrame([{"phase": s.phase, "step": s.step, "loss": s.loss, "penalty": s.penalty, "lambda": s.lam, "zero_share": s.zero_share,
                           run.metric: (s.scores or {}).get(run.metric)} for s in run.snapshots])
    download("How it went (CSV)", table, f"{run.name}-history.csv")


def download(label: str, table: pd.DataFrame, file: str) -> None:
    """A link that gives this table as a CSV file."""
    st.download_button(label, table.to_csv(index=False), file, "text/csv", icon=":material/download:", on_click="ignore", type="tertiary")
