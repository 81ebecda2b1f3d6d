"""The class kit: exercises against counts of their own, words where they first stand, handouts, the lesson alone."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from commands import prune_core
from streamlit.testing.v1 import AppTest
from test_pages import PREDICTED, answered, checked, learn, texts

from pages.shared import loaders, processes
from pages.shared.asking import LONGEST, WAITING, Asker, TooMany
from prune_core import InputError
from prune_core.cli import teach
from prune_core.showing import course, exercises, glossary, handout, lesson
from prune_core.showing.course import STEPS
from prune_core.showing.exercises import EXERCISES, SENTENCES, Known
from prune_core.showing.handout import paper, pictures, questions

ROOT = Path(__file__).resolve().parent.parent
ALONE = ROOT / "pages" / "learn" / "alone.py"


@pytest.fixture(scope="module")
def known() -> Known:
    """What ships, and answers about the examples that turn, one after the other."""
    sparsities = [0.0, 0.3, 0.6, 0.9]
    rows = [[[0.2, 0.8] if share < turns else [0.51, 0.49] for turns in (0.3, 0.6, 9.0, 0.6, 0.9)]
            for share in sparsities]
    return Known(exercises.recorded(), {"labels": ["negative", "positive"], "sparsities": sparsities,
                                        "probabilities": rows})


# ---------------------------------------------------------------- exercises


def test_every_step_has_exercises_whose_answers_are_computed(known):
    assert [len(exercises.of_step(step.number)) >= 2 for step in STEPS] == [True] * 8
    for one in EXERCISES:
        assert re.search(r"\d", one.answer(known)) and "cannot be computed" not in one.answer(known)
    bare = Known([])
    assert [one.step for one in EXERCISES if "cannot be computed" in one.answer(bare)] == [4, 4, 7, 7]


def test_answers_follow_what_the_picture_is_drawn_from(known):
    def answers(step: int, of: Known = known) -> list[str]:
        return [one.answer(of) for one in exercises.of_step(step)]

    assert "96 strips of 4 weights. 48 of them" in answers(1)[0]  # 16 / 4 rows, 24 columns
    weight = np.sort(lesson.small_matrix().ravel() ** 2)
    assert f"single weights {weight[len(weight) // 2:].sum() / weight.sum():.1%}" in answers(1)[1]
    assert "0.15 and 0.90" in answers(2)[0] and "λ = 0.30" in answers(2)[1]
    truth, found = lesson.recover(0.1, False).truth, lesson.recover(0.1, False).found
    assert f"Plain keeps {sum(f > 0 and not t for t, f in zip(truth, found, strict=True))} of the 8" in answers(3)[0]
    assert [words.split("”")[0][1:] for words in answers(4)[0].split("; ")] == [SENTENCES[at] for at in (0, 1, 3, 4, 2)]
    assert answers(4)[0].endswith("never.") and "has stopped reading" not in answers(4)[1]
    slow = Known([], shapes=known.shapes | {"sparsity": 0.5, "patterns": [
        {"pattern": "dense", "ms": 4.0, "speedup": 1.0}, {"pattern": "single weights", "ms": 8.0, "speedup": 0.5}]})
    assert answers(5, slow)[0].startswith("2 times. Measured: single weights 0.50x, 25% of that")
    assert "draw level at 75% zeros" in answers(5, slow)[1]  # 8 ms at half of the weights: 4 ms at a quarter
    assert "15, 3 bits: 7, 2 bits: 3" in answers(8)[0] and "2 bits for the values and 1 for" in answers(8)[2]


def test_a_line_on_the_dotted_one_is_counted(known):
    lost = [(run.task, point["compression_encoder"]) for run in known.runs for point in run.points
            if point["score_retrained"] is not None and point["score_retrained"] <= run.majority_score]
    told = exercises.of_step(7)[1].answer(known)
    assert f"RTE from {min(at for task, at in lost if task == 'rte'):.1f}x" in told and "SST-2" not in told


# ---------------------------------------------------------------- words


def test_a_word_first_stands_in_the_step_that_explains_it(monkeypatch):
    """In what a reader sees before unfolding anything: text, controls, captions, links."""
    monkeypatch.setattr(processes, "predict", lambda *_: PREDICTED)
    loaders.predicted.clear()
    app, shown = learn(1), []
    for step in STEPS:
        checked(app.segmented_control(key="step").set_value(step.name).run())
        app = answered(app) if step.number == 4 else app
        if step.number == 6:
            app.segmented_control(key="fault").set_value("cancelled by Adam").run()
            said = texts(app)
            app.segmented_control(key="fault").set_value("never refreshed").run()
            shown.append(said + texts(app))
        elif step.number == 8:
            said = texts(app)
            app.segmented_control(key="experiment").set_value("What an index costs").run()
            shown.append(said + texts(app) + " ".join(one.label for one in app.button_group))
        else:
            links = " ".join(link.proto.label for link in app.get("page_link"))
            shown.append(" ".join([texts(app), links, *(option for one in app.radio for option in one.options)]))
    bare = [re.sub(r"- \*\*.*|\*\*Answer, computed.*", "", text).replace("*", "").lower() for text in shown]
    for word in glossary.WORDS:
        assert (word.shown or word.word).lower() in bare[word.step - 1], word.word


def test_all_words_can_be_looked_up():
    app = learn(7)
    assert "**surgeon**: a method that removes the blocks" in texts(app) and "**distilled**" in texts(app)
    app.toggle(key="all words 7").set_value(True).run()
    assert all(f"| **{word.word}** |" in texts(app) for word in glossary.WORDS)
    assert len({word.word for word in glossary.WORDS}) == len(glossary.WORDS)


# ---------------------------------------------------------------- before a room


def test_a_presentation_has_large_charts_and_a_way_out(monkeypatch):
    app = learn(2)
    small = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]
    app.toggle(key="present").set_value(True).run()
    large = json.loads(checked(app).get("plotly_chart")[0].proto.spec)["layout"]
    assert large["font"]["size"] == 22 and small.get("font") is None
    assert not any("For a class" in one.label for one in app.expander) and app.header[0].value == "2. The penalty"
    next(b for b in app.button if b.label == "End presentation").click().run()
    assert not app.toggle(key="present").value and any("For a class" in one.label for one in app.expander)


# ---------------------------------------------------------------- what is handed out


def test_the_handout_has_every_picture_and_exercise(known):
    html = handout.students(known, date(2026, 1, 2))
    assert [html.count(f'<svg id="picture-{step.number}"') for step in STEPS] == [1] * 8
    assert html.count('<section class="page">') == 2 and "://" not in html and "<script" not in html
    for one in (one for step in STEPS for one in exercises.of_step(step.number)[:2]):
        assert one.asked.split("“")[0].split("'")[0] in html
        assert one.answer(known)[:40] not in html  # no answers on the students' sheet


def test_the_teachers_sheet_has_a_plan_answers_and_what_students_ask(known):
    html = handout.teacher(known, date(2026, 1, 2))
    assert course.CLASS == 45 and handout.plan()[-1][0].endswith(f"–{45 - course.CLOSING}")
    starts = [minutes.split("–") for minutes, _ in handout.plan()]
    assert [end for _, end in starts[:-1]] == [start for start, _ in starts[1:]]
    assert "And why not single weights?" in html
    for one in EXERCISES:
        assert one.answer(known)[:30].replace("'", "&#39;").split("“")[0] in html
    single = lesson.cut_matrix(lesson.small_matrix(), exercises.BlockShape.parse("1x1"), 0.5).energy
    assert f"{single:.1%}" in questions.asked(known)[0][1]


def test_what_is_missing_is_said_on_paper():
    html = handout.students(Known([]), date(2026, 1, 2))
    assert html.count("class='missing'") == 2  # the sentence, and the recorded runs


@pytest.mark.parametrize("low, high", [(0.0, 1.1), (-0.2, 0.3), (0.79, 0.87), (1.0, 5.0), (0.0, 60.0)])
def test_ticks_are_round_and_few(low, high):
    ticks = pictures._round(low, high)
    assert 2 <= len(ticks) <= 5 and ticks.min() >= low - 1e-9 and ticks.max() <= high + 1e-9
    assert all(len(f"{tick:.3g}") <= 5 for tick in ticks)


@pytest.mark.skipif(paper.browser() is None, reason="no chromium on this machine")
def test_printed_it_has_two_pages(known):
    for made in (handout.students(known, date.today()), handout.students(Known([]), date.today())):
        assert len(re.findall(rb"/Type\s*/Page\b", paper.pdf(made))) == 2
    teacher = paper.pdf(handout.teacher(known, date.today()))
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", teacher)) <= 3


def test_the_command_writes_a_handout_and_refuses_in_one_line(tmp_path):
    done = prune_core("handout", tmp_path / "one.html", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sentences"] and told["bytes"] == (tmp_path / "one.html").stat().st_size
    assert (tmp_path / "one.html").read_text().count("<svg id=") == 8
    for name, why in (("one.html", "is there already"), ("one.docx", "ends in '.docx'"), ("one", "ends in 'nothing'")):
        done = prune_core("handout", tmp_path / name)
        assert done.returncode == 2 and why in done.stderr and done.stderr.count("\n") == 1


def test_a_pdf_needs_a_browser(monkeypatch):
    monkeypatch.setattr(paper, "browser", lambda: None)
    with pytest.raises(InputError, match="none is on this machine"):
        paper.pdf("<p>")
    monkeypatch.setattr(paper, "browser", lambda: "/bin/false")
    with pytest.raises(InputError, match="ended with code 1"):
        paper.pdf("<p>")


def test_learn_gives_both_sheets(monkeypatch):
    monkeypatch.setattr(processes, "predict", lambda *_: PREDICTED)
    monkeypatch.setattr(paper, "browser", lambda: None)
    loaders.predicted.clear()
    app = learn(1)
    next(b for b in app.button if b.label.startswith("Make both")).click().run()
    files, missing = checked(app).session_state["hand outs"]
    assert not missing and b'id="picture-4"' in files["handout.html"][0]
    assert [b.label for b in app.get("download_button")] == ["Handout (HTML)", "Teacher's sheet (HTML)"]


# ---------------------------------------------------------------- the lesson for a class


def test_sentences_that_wait_are_asked_together():
    held, asked = threading.Event(), []

    def ask(sentences):
        asked.append(list(sentences))
        held.wait(30)
        if "fails" in sentences:
            raise processes.Failed("no")
        return {"probabilities": [[[len(one), share] for one in sentences] for share in (0, 1)]}

    asker = Asker(ask)
    first = asker.want("a")
    while not asked:
        pass
    futures = [asker.want("b" * count) for count in range(1, 31)] + [asker.want("b")]
    assert futures[0] is futures[-1]
    held.set()
    assert futures[4].result(30)["probabilities"] == [[[5, 0]], [[5, 1]]]
    assert first.result(30)["probabilities"][0] == [[1, 0]]
    assert [len(one) for one in asked] == [1, 30]
    assert isinstance(asker.want("fails").exception(30), processes.Failed)
    assert asker.want("x" * 10_000).result(30)["probabilities"][0] == [[LONGEST, 0]]  # no more is read


def test_no_more_sentences_are_taken_than_can_be_asked():
    held = threading.Event()
    asker = Asker(lambda sentences: held.wait(30) and {"probabilities": [[[0]] * len(sentences)]})
    try:
        with pytest.raises(TooMany, match="try again"):
            for count in range(2 * WAITING):
                asker.want(str(count))
    finally:
        held.set()


def test_the_lesson_alone_offers_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNESCOPE_READ_ONLY", "")  # the script itself sees to it
    monkeypatch.setenv("PRUNESCOPE_RUNS_DIR", str(tmp_path / "secret-runs"))
    monkeypatch.delenv("PRUNESCOPE_DATA", raising=False)
    monkeypatch.setattr(processes, "predict", lambda *_: PREDICTED)
    loaders.predicted.clear()
    for step in STEPS:
        app = AppTest.from_file(str(ALONE), default_timeout=120)
        app.query_params["step"] = step.name
        app = answered(app.run()) if step.number == 4 else checked(app.run())
        assert app.header[0].value == step.name
        assert not app.get("page_link") and not app.get("file_uploader") and not app.get("download_button")
        assert {b.label for b in app.button} == {"Back", "Next"} and {one.key for one in app.text_input} <= {"sentence"}
        assert str(tmp_path) not in texts(app) and str(ROOT) not in texts(app)
    assert not list((ALONE.parent).glob("pages"))  # beside which Streamlit would look for others


def test_what_fails_names_no_folder_to_students(monkeypatch):
    def fail(*_):
        raise processes.Failed("/home/teacher/weights cannot be read")

    monkeypatch.setenv("PRUNESCOPE_READ_ONLY", "1")
    monkeypatch.setattr(processes, "predict", fail)
    loaders.predicted.clear()
    app = AppTest.from_file(str(ALONE), default_timeout=120)
    app.query_params["step"] = STEPS[3].name
    app = answered(app.run())
    assert len(app.error) == 1 and "teacher" not in texts(app)
    loaders.predicted.clear()


def test_the_lesson_is_started_for_this_machine_or_for_the_room(monkeypatch, capfd):
    started = []
    monkeypatch.setattr(teach.os, "execve", lambda *args: started.append(args))
    monkeypatch.setattr(teach.os, "chdir", lambda folder: None)
    monkeypatch.setattr(teach, "own_addresses", lambda: ["192.0.2.7"])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.listen()
        with pytest.raises(InputError, match="needed: another one"):
            teach.lesson(False, port)
    teach.lesson(False, port)
    teach.lesson(True, port)
    (_, here, environment), (_, room, _) = started
    assert here[:5] == [sys.executable, "-m", "streamlit", "run", str(ALONE)] and environment["PRUNESCOPE_READ_ONLY"]
    assert "--server.address=localhost" in here and "--server.address=0.0.0.0" in room
    assert f"--server.corsAllowedOrigins=http://192.0.2.7:{port}" in room and "--client.showErrorDetails=none" in room
    said = capfd.readouterr().err
    assert f"For the board: http://192.0.2.7:{port}" in said and said.count("For the board") == 1
