"""Explore: choose a run and a moment, set a threshold, and see what is cut and what it costs."""

from __future__ import annotations

import streamlit as st

from pages.shared import cut, loaders, scores, widgets
from prune_core import figures
from prune_core.masks import BlockMask, Norms
from prune_core.runs import Run, RunError
from prune_core.trajectory import Snapshot


def main() -> None:
    widgets.page("Explore")
    with st.sidebar:
        run = chosen_run()
    st.title(widgets.plain(run.name) if run else "Explore", anchor=False)
    if run is None:
        nothing()
        return
    st.caption(widgets.facts(run) + f" · dense {run.metric.replace('_', ' ')} {widgets.score(run.dense_score)}")
    widgets.warnings(run)
    if not run.with_norms:
        st.info("This run has recorded no block norms yet. Watch it on the **Prune** page, or choose another run.")
        return
    try:
        with st.sidebar:
            at = chosen_moment(run)
            norms, high = loaders.norms(run, at), loaders.norm_scale(run)
            st.divider()
            cutting = cut.choose(run, norms, high)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return
    draw(run, run.snapshots[at], norms, cutting, high)


def chosen_run() -> Run | None:
    """The run that the person chose; None where there is none to choose."""
    names = list(dict.fromkeys(one.name for one in loaders.listed() if one.run))
    if not names:
        return None
    if st.query_params.get("run") not in names:
        st.session_state["run"] = names[0]  # no default of the widget: the address then always names the run
    return loaders.run(st.selectbox("Run", names, None, key="run", bind="query-params", on_change=forget))


def nothing() -> None:
    """What to do where there is no run."""
    st.info("There are no recorded runs yet. Start one on the **Prune** page, or in a terminal: `python -m prune_core prune`.")
    if lost := [one for one in loaders.listed() if not one.run]:
        st.warning(f"{len(lost)} in the runs folder cannot be read; **Home** says why.", icon=":material/error:")


def forget() -> None:
    """Another run has other moments, layers and norms."""
    for key in [k for k in st.session_state if str(k) in ("at", "layer") or str(k).startswith("threshold")]:
        del st.session_state[key]


def chosen_moment(run: Run) -> int:
    """Position of the snapshot in view; at first the end of the penalty phase, where there is one."""
    moments = run.with_norms
    ends = {run.snapshots[at].saved: at for at in moments if run.snapshots[at].saved}
    first = next((at for name, at in ends.items() if name.startswith("penalty")), moments[-1])
    if st.session_state.get("at", first) not in moments:
        del st.session_state["at"]
    if len(moments) == 1:
        return moments[0]
    above = st.container()
    at = st.select_slider("Moment", moments, first, lambda at: moment(run.snapshots[at]), key="at", bind="query-params")
    st.session_state["end"] = run.snapshots[at].saved  # lit only while it is in view
    above.pills("Ends of phases", list(ends), key="end", on_change=jump, args=(ends,))
    return at


def jump(ends: dict[str, int]) -> None:
    """Move the slider to the end of a phase that was clicked."""
    if st.session_state["end"]:
        st.session_state["at"] = ends[st.session_state["end"]]


def moment(snapshot: Snapshot) -> str:
    """'penalty-2x' where weights were saved, else 'penalty step 120', with a mark where gamma was refreshed."""
    if snapshot.saved:
        return snapshot.saved
    return f"{snapshot.phase} step {snapshot.step:,}" + (" (milestone)" if snapshot.milestone else "")


def draw(run: Run, snapshot: Snapshot, norms: Norms, cutting: cut.Cut, high: float) -> None:
    """Numbers, the encoder's map, and what else the open tab shows: only that one is computed and sent."""
    mask = cutting.mask(norms, run.layout)
    scores.numbers(run, snapshot, cutting, mask)
    st.markdown("**Block norms of the whole encoder**, one colour scale for the whole run")
    st.plotly_chart(figures.encoder_map(norms, mask, high), key="map", config=widgets.CHART,
                    alt="Block norms of every layer and matrix; cut blocks in a colour of their own")
    taken = scores.exact(run, snapshot, cutting)
    both, one, results, course = st.tabs(["Score and spread", "One layer in full", "Results", "How it went"], key="view",
                                         bind="query-params")
    if both.open:
        with both:
            score_and_spread(run, snapshot, norms, mask, cutting, high, taken)
    if one.open:
        with one:
            layer(norms, mask, high)
    if results.open:
        with results:
            scores.points(run)
            widgets.not_glue(run)
    if course.open:
        with course:
            st.plotly_chart(figures.history(run.snapshots, run.metric), key="history", config=widgets.CHART,
                            alt="Training loss, penalty, share of zero weights and dev score over the steps")


def score_and_spread(run: Run, snapshot: Snapshot, norms: Norms, mask: BlockMask, cutting: cut.Cut, high: float,
                     taken: list[tuple[float, float]]) -> None:
    """The recorded score over sparsity, and the histogram of norms, side by side."""
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown(f"**Dev score over sparsity** at {widgets.plain(moment(snapshot))}")
        scores.surface(run, snapshot, mask, taken)
        widgets.not_glue(run)
    with right:
        st.markdown("**How the norms are spread**")
        st.plotly_chart(figures.norm_histogram(norms, mask, high, cutting.one), key="histogram", config=widgets.CHART,
                        alt="Histogram of block norms with the threshold")


def layer(norms: Norms, mask: BlockMask, high: float) -> None:
    """The choice of a layer, and its matrices in full."""
    layers = sorted({m.layer for m in mask.layout.matrices})
    one = st.segmented_control("Layer; hover over a block for its exact norm", layers, default=layers[0], required=True,
                               format_func=lambda at: f"layer {at}", key="layer", bind="query-params")
    st.plotly_chart(figures.layer_map(norms, mask, high, one), key="layer_map", config=widgets.CHART,
                    alt=f"Exact block norms of the matrices of layer {one}")


main()
