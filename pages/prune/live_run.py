"""One run, live: where it is, its maps and curves, and the buttons that cancel and resume it."""

from __future__ import annotations

import streamlit as st

from pages.shared import copying, loaders, processes, widgets
from pages.shared.widgets import STATUS
from prune_core.cutting.masks import mask_at
from prune_core.runs.places import RunError
from prune_core.runs.run import Run
from prune_core.showing import figures

SECONDS = 2  # between two looks at a run that is running


def watch(name: str) -> None:
    """Show the run, looking again every few seconds while its process lives."""
    try:
        path = processes.log_file(name, loaders.runs_dir())  # also refuses names that are no names
        state = state_of(name)
    except RunError as error:
        st.error(widgets.plain(str(error)), icon=":material/error:")
        return
    live = state in ("starting", "running")
    st.fragment(shown, run_every=SECONDS if live else None)(name, state, str(path.stem))


def state_of(name: str) -> str:
    """starting (no folder yet), running, interrupted, complete, or failed (ended before there was a folder).

    Raises RunError.
    """
    alive = processes.starting(name, loaders.runs_dir())
    try:
        run = loaders.run(name)
    except RunError:
        if alive:
            return "starting"
        if processes.error_line(name, loaders.runs_dir()) or processes.launched(name, loaders.runs_dir()):
            return "failed"
        raise
    status = run.status
    return "starting" if status == "interrupted" and alive else status  # a resumed run loads before it takes the lock


def shown(name: str, before: str, title: str) -> None:
    """The body of the fragment. When the state is no longer `before`, the whole page is drawn anew."""
    state = state_of(name)
    if state != before:
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(widgets.plain(title), anchor=False, width="content")
        if state in STATUS:
            widgets.badge(state)
        st.space("stretch")
        buttons(name, state)
    if state == "starting":
        starting(name)
    if state in ("failed", "interrupted"):
        ended(name, state)
    try:
        run = loaders.run(name)
    except RunError:
        return  # not yet
    st.caption(widgets.facts(run))
    widgets.warnings(run)
    if loading := run.about.get("loading"):
        st.caption(widgets.plain(f"How its checkpoint was read: {'; '.join(loading)}."))
    if state == "running":
        progress(run)
    numbers(run)
    pictures(run)


def starting(name: str) -> None:
    """What a run does before it trains: a download with its share and the time left, or the last that it said.

    One that is being stopped has let go of its folder a moment before its process ends.
    """
    if st.session_state.get("stopping") == name:
        st.progress(0.0, text="Stopping …")
        return
    if coming := processes.download(name, loaders.runs_dir()):
        share, words = coming
        st.progress(share, text=widgets.plain(f"Starting: {words}"))
        return
    st.progress(0.0, text=f"Starting: loading the libraries, the model and the data …{left(name)}")
    said = processes.last_line(name, loaders.runs_dir())
    st.caption(widgets.plain("" if said.startswith("error:") else said))  # an error is that of a process before it


def left(name: str) -> str:
    """' · about 2 min left', as it was said before Start; '' where it was not."""
    expected, seconds = st.session_state.get("expected", ("", None))
    return f" · about {widgets.duration(seconds)} left" if expected == name and seconds else ""


def buttons(name: str, state: str) -> None:
    """What can be done with the run in this state."""
    change = not loaders.read_only()
    if change and state in ("starting", "running") and st.button("Cancel", icon=":material/stop:", key="cancel"):
        stopped = processes.cancel(name, loaders.runs_dir())
        st.session_state["stopping"] = name if stopped else ""
        st.toast("Stopping; it can be resumed." if stopped else "Its process was not found, so nothing was stopped.")
    if change and state == "interrupted" and st.button("Resume", icon=":material/play_arrow:", key="resume",
                                                       type="primary"):
        processes.resume(name, loaders.runs_dir())
        st.session_state["stopping"] = ""
        st.rerun(scope="app")
    if state == "complete":
        st.page_link("pages/2_Explore.py", label="Explore it", icon=":material/grid_on:", query_params={"run": name})


def ended(name: str, state: str) -> None:
    """Why a run that is neither running nor complete ended, as far as it said."""
    said = processes.error_line(name, loaders.runs_dir())
    if not said and state == "interrupted":
        said = loaders.run(name).now.get("error", "")
    said, script, _ = said.partition("; for GLUE give --data")  # what follows is for who types
    if script:
        said += ". Choose a folder with GLUE as Data above, or the practice set."
    if said and f"resume {name}" not in said:
        st.error(widgets.plain(said), icon=":material/error:")
    elif state == "failed":
        last = processes.last_line(name, loaders.runs_dir())
        st.error(f"It ended before it recorded anything. {widgets.plain(last)}", icon=":material/error:")
    else:
        more = " **Resume** continues from the last checkpoint and gives identical results."
        st.info("Stopped early." + more * (not loaders.read_only()))


def progress(run: Run) -> None:
    """The bar, with phase, step and time left as the run's process last said."""
    now = run.now
    if "phase" not in now:  # a moment between the folder and its first word
        st.progress(0.0, text=f"Starting …{left(run.name)}")
        return
    step, steps = now.get("step") or 0, now.get("steps") or 1
    words = [f"{now['phase']}: {now.get('doing') or 'training'}"]
    if now.get("total"):
        words[0] += f" ({now.get('done', 0)} of {now['total']})"
    words += [f"step {step:,} of {steps:,}", f"{widgets.duration(now.get('seconds') or 0.0)} so far"]
    if now.get("seconds_left") is not None:
        words += [f"about {widgets.duration(now['seconds_left'])} left"]
    st.progress(min(1.0, step / steps), text=widgets.plain(" · ".join(words)))


def numbers(run: Run) -> None:
    """The latest of what the snapshots tell."""
    def latest(value):
        return next((known for s in reversed(run.snapshots) if (known := value(s)) is not None), None)

    loss, penalty, zero = (latest(lambda s, f=f: getattr(s, f)) for f in ("loss", "penalty", "zero_share"))
    score = latest(lambda s: s.scores and s.scores.get(run.metric))
    with st.container(horizontal=True):
        for label, text in (("Loss", widgets.score(loss)), ("Penalty (times λ)", widgets.large(penalty)),
                            ("Zero weights", "–" if zero is None else f"{zero:.1%}"),
                            (f"Last dev {run.metric}", widgets.score(score))):
            st.metric(label, text, border=True, width=190)


def pictures(run: Run) -> None:
    """The map of the latest norms and the curves so far."""
    if run.with_norms:
        at = run.with_norms[-1]
        norms, snapshot = loaders.norms(run, at), run.snapshots[at]
        st.markdown(f"**Block norms** at {snapshot.phase}, step {snapshot.step:,}; blocks at exactly zero count as cut")
        figure = figures.encoder_map(norms, mask_at(norms, run.layout, 0.0), loaders.norm_scale(run))
        copying.chart(figure, key="live_map", alt="Block norms of every layer and matrix, latest snapshot")
    if run.snapshots:
        st.markdown("**Loss, penalty, zeros and score**")
        copying.chart(figures.history(run.snapshots, run.metric), key="live_curves",
                      alt="Training loss, penalty, share of zero weights and dev score over the steps")
    elif run.status == "running":
        st.caption("The first snapshot comes in a moment.")
