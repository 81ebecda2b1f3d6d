"""Explore: for which precision a speedup is predicted, on which machine, and against which dense engine."""

from __future__ import annotations

import streamlit as st

from pages.explore.view import View, precision
from pages.shared import jobs, loaders, widgets
from pages.shared.loaders import SETTING
from pages.shared.widgets import PRECISIONS
from prune_core.latency import executed
from prune_core.latency.profile import not_timed
from prune_core.runs.run import Run


def ask() -> None:
    """The precision, asked for in the sidebar; a link that names none of them is as one that names nothing."""
    if st.session_state.get("dtype", PRECISIONS[0]) not in PRECISIONS:
        del st.session_state["dtype"]
    st.segmented_control("Precision of the speedup", PRECISIONS, default=PRECISIONS[0], key="dtype", required=True,
                         bind="query-params",
                         help="The arithmetic that a speedup is predicted for: **auto** takes what is predicted to be "
                              "the fastest for each cut. One that is slower than fp32 on the machine is not taken.")


def words(run: Run, view: View) -> str:
    """What the predicted speedup is against, for which arithmetic, machine and sentences, and how far off it is."""
    profile = loaders.usual_profile()
    if profile is None:
        return "No speedup is predicted: **Speed** can calibrate this machine."
    taken = executed.path_of(profile, view.formats, precision(), view.mask, SETTING, run.heads)
    rival, _ = profile.best_rival(run.layout, SETTING)
    where = widgets.mark(profile)
    of = "of this machine" if not where else f"of {widgets.plain(where.removeprefix('on '))}"
    how = f"{taken.dtype}, the fastest there" if precision() == "auto" else taken.dtype
    instead = f" ({taken.why})" if taken.why else ""
    return " ".join(sentence for sentence in (
        f"Speedup: **predicted** against the best dense engine {of} ({rival}), for {how}{instead}, {SETTING.words}; "
        f"median error {profile.paths[taken.path].error:.0%}.", _of_formats(view), not_timed(profile),
        "**Speed** has more.") if sentence)


def _of_formats(view: View) -> str:
    """What the formats in view do to the time; '' where they are fp32."""
    kind, patterns = executed.executed_as(view.formats), any(one.pattern for one in view.formats.weights)
    said = {"plain": "",
            "weights": "Weights in few bits save bytes: they are read back as floats, which takes as long.",
            "int8": "With activations in 8 bits, int8 arithmetic executes the stored integers as they are."}[kind]
    return f"{said} {'A pattern saves bytes, not time.' if patterns else ''}".strip()


def not_calibrated() -> None:
    """That this machine was never calibrated, with the way to where it can be; nothing where it was."""
    if widgets.calibrated() or loaders.usual_profile() is None and loaders.read_only():
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="not-calibrated"):
        st.markdown(":material/speed: Not calibrated here: speedups are those of another machine."
                    if loaders.usual_profile() else ":material/speed: Not calibrated here.", width="content")
        if not loaders.read_only():
            st.page_link("pages/4_Speed.py", icon=":material/arrow_forward:",
                         label=f"Calibrate on Speed (about {widgets.duration(jobs.CALIBRATION)})")
