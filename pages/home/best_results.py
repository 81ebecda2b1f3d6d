"""Home: the best result of each task, and of each run in words."""

from __future__ import annotations

import streamlit as st

from pages.shared import copying, loaders, widgets
from pages.shared.loaders import SETTING
from pages.shared.present import SHARES
from prune_core.cutting.masks import mask_at
from prune_core.precision.formats import parse
from prune_core.runs import best
from prune_core.runs.best import ALLOWED, Result
from prune_core.runs.run import Run
from prune_core.showing.report.recommend import points
from prune_core.tasks.glue_folders import FOLDERS
from prune_core.tasks.metrics import in_words


def table(runs: list[Run]) -> None:
    """A line for each task: the best result of these runs by the rule, what it is like, and how far to believe it."""
    by_task: dict[tuple, list[Run]] = {}
    for run in runs:
        by_task.setdefault((task_of(run), run.metric), []).append(run)
    found = [(task, metric, result) for (task, metric), mine in by_task.items() if (result := best.best(best.of(mine)))]
    if not found:
        return
    st.header("Best results so far", anchor=False)
    heads = ("Task", "Cut from the encoder", "Score", "Against dense", "Speedup")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(cells(task, metric, result)) + " |" for task, metric, result in found]
    st.markdown("\n".join(lines))
    copying.control("best results", "\n".join(lines) + "\n")
    profile = next(iter(loaders.profiles()), "")
    speed = (f" Speedups are predicted for {widgets.plain(profile)}, in the fastest precision, over the best dense "
             "engine.") if profile else ""
    few = ", or where bits or patterns are in play the encoder in the fewest bytes," * any(
        result.formats for run in runs for result in best.of([run]))
    st.caption(
        f"For each task the largest cut{few} that stays within {points(ALLOWED)} of the dense model it was made from, "
        "else the one that loses least. ± is how far a score on so few dev examples can be trusted (half of its 95% "
        "interval): a pruned model that scores a little higher is as good as the dense one, not better."
        f"{speed}")


def cells(task: str, metric: str, result: Result) -> tuple[str, ...]:
    """What the line of a task says."""
    name = f"**{widgets.plain(task)}** {widgets.plain(in_words(metric))}"
    return (name, share(result) + stored(result), f"**{result.score:.3f}** of {result.dense:.3f}", against(result),
            speedup(result))


def against(result: Result) -> str:
    """The score beside the dense one's, and what to think of the difference."""
    lost, sure = round(100 * (result.dense - result.score), 1), result.uncertain
    told = f"{abs(lost):.1f} points {'less' if lost > 0 else 'more'}" if lost else "equal"
    if result.useless:
        return told + ", no better than guessing"
    if sure and abs(lost) <= 100 * sure:
        return f"{told}, which may be chance (±{100 * sure:.1f})"
    return told + (f", more than chance (±{100 * sure:.1f})" if sure else "")


def words(run: Run) -> str:
    """The run's best retrained result: 'Best: half of the encoder cut, 0.898 of 0.891 dense'. '' without one."""
    result = best.best(best.of([run]))
    if result is None:
        return ""
    lost = result.dense - result.score
    after = "" if best.keeps(result, ALLOWED) else f", {points(lost)} lost"
    after += ", no better than guessing" if result.useless else ""
    size = f"{share(result)} of the encoder cut{stored(result)}"
    return f"Best: **{size}, {result.score:.3f}** of {result.dense:.3f} dense{after}"


def share(result: Result) -> str:
    """How much of the encoder is cut: 'half', or '36.0%' where there is no such word."""
    cut = 1 - 1 / result.compression_encoder
    return next((word for value, word in SHARES.items() if abs(value - cut) < 0.006), f"{cut:.1%}")


def stored(result: Result) -> str:
    """', 4 bits, 7.9x fewer bytes' of what was trained in formats; '' of fp32."""
    return f", {parse(result.formats).words}, {result.fewer:.1f}x fewer bytes" if result.formats else ""


def speedup(result: Result) -> str:
    """As the usual profile predicts it; a dash without one, or without the norms."""
    run, profile = result.run, loaders.usual_profile()
    at = run.saved(result.stage)
    if profile is None or at not in run.with_norms:
        return "–"
    fast = profile.speedup(mask_at(loaders.norms(run, at), run.layout, 0.0), SETTING, run.heads)
    return widgets.plain(widgets.marked(fast, profile))


def task_of(run: Run) -> str:
    """What a task is called: 'SST-2'."""
    if run.is_practice:
        return "practice set (not GLUE)"
    return f"{run.task} (own data)" if run.is_own else FOLDERS.get(run.task, run.task)
