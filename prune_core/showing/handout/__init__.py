"""What a class is handed out, for paper: two pages for students, and a sheet for the teacher with every answer."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path

import numpy as np

from prune_core.cutting.blocks import BlockShape
from prune_core.precision.formats import Format
from prune_core.showing import bits, course, exercises, glossary, lesson
from prune_core.showing.course import STEPS, Step
from prune_core.showing.exercises import FIRST_TASK, ROW, SENTENCES, STARTS, Known
from prune_core.showing.handout import pictures, questions
from prune_core.tasks.glue_folders import FOLDERS

HERE = Path(__file__).parent
MISSING = "<p class='missing'>This picture needs the recorded runs, or the model's answers, which are not here.</p>"


def students(known: Known, made: date) -> str:
    """The handout, as one HTML file that prints on two pages of A4: pictures and exercises of all steps."""
    steps = [{"step": step, "picture": picture(step, known), "exercises": exercises.of_step(step.number)[:2]}
             for step in STEPS]
    return _templates().get_template("students.html").render(pages=[steps[:4], steps[4:]], made=made)


def teacher(known: Known, made: date) -> str:
    """The teacher's sheet, as HTML for A4: a plan for 45 minutes, every answer, and what students ask."""
    answers = [(step, [(one, one.answer(known)) for one in exercises.of_step(step.number)]) for step in STEPS]
    return _templates().get_template("teacher.html").render(
        plan=plan(), course=course, answers=answers, asked=questions.asked(known), words=glossary.WORDS, made=made)


def plan() -> list[tuple[str, Step]]:
    """('7–11', step) for each step of the class: its minutes, counted from the beginning."""
    now, told = course.OPENING, []
    for step in STEPS:
        if step.in_class:
            told.append((f"{now}–{now + step.in_class}", step))
            now += step.in_class
    return told


def picture(step: Step, known: Known) -> str:
    """The picture of a step at the setting that Learn opens with, as SVG; in words where it cannot be drawn."""
    return (_PICTURES[step.number](known) or MISSING).replace("<svg ", f'<svg id="picture-{step.number}" ', 1)


def _matrix(known: Known) -> str:
    strips = BlockShape.parse("4x1")
    cut = lesson.cut_matrix(lesson.small_matrix(), strips, 0.5)
    return pictures.matrix(cut.weight, cut.kept, strips, "A matrix in strips of 4 x 1; half of them are cut, and empty")


def _two(known: Known) -> str:
    path = lesson.two_groups(0.1)
    steps = range(len(path))
    return pictures.lines({"needed": (steps, path[:, 0]), "barely|needed": (steps, path[:, 1])},
                          "training step, λ = 0.1", "norm", "The norms of two blocks over the training steps")


def _found(known: Known) -> str:
    plain, again = lesson.recover(0.1, False), lesson.recover(0.1, True)
    return pictures.bars({"true": plain.truth, "plain": plain.found, "reweighted": again.found}, "block, λ = 0.1",
                         "norm", "Norms of twelve blocks: the truth, found plain, found with reweighting")


def _sentence(known: Known) -> str:
    if not known.sentences:
        return ""
    shares, sure = known.sentences["sparsities"], np.array(known.sentences["probabilities"])[:, 0]
    series = {label: (shares, sure[:, at]) for at, label in enumerate(known.sentences["labels"])}
    return pictures.lines(series, f"sparsity; “{SENTENCES[0]}”", "probability",
                          "What the model says of a sentence, over the sparsity", percent=True)


def _speed(known: Known) -> str:
    shapes = known.shapes
    return pictures.rows({row["pattern"]: row["speedup"] for row in shapes["patterns"]},
                         f"times as fast as dense; {shapes['sparsity']:.0%} zeros, {shapes['machine']['cpu']}",
                         "Speedup over the dense product, for single weights, tiles and strips", level=1.0)


def _fault(known: Known) -> str:
    path = lesson.reweighted_norms(20, STARTS)
    epochs = range(len(path))
    return pictures.lines({f"from {norm:g}": (epochs, path[:, at]) for at, norm in enumerate(STARTS)},
                          "epoch; γ is refreshed after 4, 8, 12, 16", "norm",
                          "Norms of four blocks over the epochs of a training")


def _breaks(known: Known) -> str:
    runs = known.of(FIRST_TASK)
    if not runs:
        return ""
    series = {}
    for run in runs[:len(pictures.COLOURS)]:
        points = [p for p in run.points if p["score_retrained"] is not None]
        name = run.name.removeprefix(f"{FIRST_TASK}-{run.config.model}-").replace("-", "|")
        series[name] = ([1.0, *(p["compression_encoder"] for p in points)],
                        [run.dense_score, *(p["score_retrained"] for p in points)])
    return pictures.lines(series, f"compression of the encoder, {FOLDERS[FIRST_TASK]}", f"dev {runs[0].metric}",
                          "Score over compression of recorded runs", ("most frequent", runs[0].majority_score))


def _stairs(known: Known) -> str:
    row = (lesson.small_matrix() if known.weight is None else known.weight)[ROW].astype(float)
    one = bits.rounded(row, "4", True)
    return pictures.stairs(row, one.values, one.levels,
                           f"The weights of a row, and their levels in {Format.parse('4').words}")


_PICTURES = {1: _matrix, 2: _two, 3: _found, 4: _sentence, 5: _speed, 6: _fault, 7: _breaks, 8: _stairs}


@cache
def _templates():
    import jinja2

    return jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=jinja2.select_autoescape(["html"]),
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
