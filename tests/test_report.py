"""Reports: the rule by hand, no claim that the data does not hold, nothing from outside run as HTML,
and the file opened offline in a real browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from itertools import product

import numpy as np
import pytest
import tiny
from browsing import CHROMIUM, chromium
from commands import prune_core
from sample_run import make_layout, make_profile, make_run

from prune_core import InputError
from prune_core.cutting.answers import Flip, Flips, predict
from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation import findings
from prune_core.evaluation.bench import Bench
from prune_core.evaluation.exact import evaluate
from prune_core.evaluation.flips import UncutAnswers
from prune_core.latency.profile import Batch
from prune_core.runs import best, shelf
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting, as_text, from_json, results
from prune_core.showing.report import recommend, write
from prune_core.showing.report.finding import AUDIENCES, Finding, ReportedScore, ReportedSpeed, Request

DAY = date(2026, 11, 21)
HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" </script> {{ 7*7 }}'
BATCH = Batch()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run of MiniLM's size, without weights."""
    return Run(make_run(tmp_path_factory.mktemp("runs"), "sample", layout=make_layout(6, 384, 1536, "64x1")))


@pytest.fixture(scope="module")
def trained(tiny_model, tiny_data, tmp_path_factory) -> Run:
    """A run with weights and data."""
    return tiny.make_run(tiny.settings(tiny_model, tiny_data), tmp_path_factory.mktemp("runs"), "trained")


def finding(run: Run, share: float, score: float | None = None, speed: float | None = None,
            at: str = "dense", **more) -> Finding:
    """A finding with these numbers."""
    setting = Setting("one", run.saved(at), Cut("global", share))
    said = None if score is None else ReportedScore(score, score - 0.02, score + 0.02, 872, True)
    fast = None if speed is None else ReportedSpeed(speed, BATCH, 2, "a processor", 100.0, 100.0 / speed)
    return Finding(setting, setting.mask(run), said, fast, None, "no weights", **more)


def test_the_rule_takes_the_fastest_that_loses_little_enough(run):
    some = [finding(run, 0.3, 0.895, 1.5), finding(run, 0.5, 0.892, 1.9),
            finding(run, 0.7, 0.87, 3.0), finding(run, 0.6, None, 2.5)]
    assert recommend.recommended(0.9, some, 0.01)[0] == 1
    assert recommend.recommended(0.9, some, 0.03)[0] == 2
    best, rule = recommend.recommended(0.9, some, 0.001)
    assert best == 0 and "No setting keeps within 0.1 points" in rule and "0.5 points" in rule
    for allowed, verdict in ((0.001, "Do not ship: A, the nearest, loses 0.5 points, more than the 0.1 points allowed"),
                             (0.01, f"Ship B with care: {some[1].mask.sparsity:.1%} of the encoder cut, 0.8 points")):
        asked = Request(allowed=allowed)
        assert verdict in write.html(run, some, asked, DAY) and verdict in write.markdown(run, some, asked, DAY)
    without = [replace(some[0], speed=None), some[1]]
    assert recommend.recommended(0.9, without, 0.01) == (
        1, "Rule: among the settings whose score is at most 1 point below the dense model's, "
           "the smallest (not all have a speedup). 2 of 2 meet this.")
    guessed = [some[0], replace(some[1], speed=replace(some[1].speed, error=0.05))]
    assert "some speedups are predicted" in recommend.recommended(0.9, guessed, 0.01)[1]
    assert recommend.recommended(0.9, [some[3]], 0.01)[0] is None


@pytest.mark.parametrize(("score", "half", "exact", "headline", "sure"), [
    (0.892, 0.02, True, "Ship B with care: 50.0% of the encoder cut, 0.8 points lost",
     "uncertain by ±2 points, more than the 1 point allowed: the true loss may exceed it"),
    (0.91, 0.005, True, "Ship B: 50.0% of the encoder cut, nothing lost", "Even the low end of its 95% interval is"),
    (0.892, None, True, "Ship B with care: ", "No interval of its score is known"),
    (0.892, 0.02, False, "Ship B with care: 50.0% of the encoder cut, 0.8 points lost, but its score is predicted",
     "±2 points"),
    (0.88, 0.02, True, "Do not ship: B, the nearest, loses 2 points, more than the 1 point", "may be within after all"),
    (0.88, 0.005, True, "Do not ship: B", "Even the high end of its 95% interval is below"),
    (0.5, 0.02, True, "Do not ship: B scores no better than always giving the most frequent answer", "")])
def test_the_advice_follows_from_the_rule_and_the_interval(run, score, half, exact, headline, sure):
    low, high = (None, None) if half is None else (score - half, score + half)
    one = replace(finding(run, 0.5, score, 2.0), score=ReportedScore(score, low, high, 872, exact))
    told, why = recommend.advice(0.9, 0.51, one, "B", 0.01)
    assert told.startswith(headline) and sure in why and bool(sure) is bool(why)
    word = recommend.verdict(0.9, 0.51, one, 0.01)
    assert told.startswith({"ship": "Ship B: ", "ship with care": "Ship B with care: ", "do not ship": "Do not"}[word])


def test_of_another_run_that_does_better_it_is_told(tmp_path):
    for name, compression in (("small", 3.0), ("large", 2.0)):
        make_run(tmp_path, name, compression=compression)
    small, large = Run(tmp_path / "small"), Run(tmp_path / "large")
    assert best.better(small, [small, large], 0.02) is None and best.told(None) == ""
    first = best.better(large, [small, large], 0.02)
    assert best.told(first) == "Another run does better: small, 3x by group-lasso, 0.885 of 0.900 dense."
    assert best.better(large, [small, large], 0.01) is None  # neither is within, both lose as much
    asked = Request(better=best.told(first), allowed=0.02)
    for write_it in (write.html, write.markdown):
        assert "Another run does better" in write_it(large, [finding(large, 0.5, 0.89, 2.0)], asked, DAY)


def test_a_report_opens_on_the_best_result_and_its_neighbours(tmp_path):
    for name, compression in (("one", 2.0), ("other", 3.0)):
        make_run(tmp_path, name, compression=compression)
    assert best.around(Run(tmp_path / "one")) == ["retrain-2x"]
    assert [setting.name for setting in results(Run(tmp_path / "other"))] == ["retrain-3x"]
    surgeon = shelf.find("sst2-minilm-64x1-surgeon")
    assert best.around(surgeon) == ["retrain-3x", "retrain-2x", "retrain-5x"]
    assert best.around(shelf.find("sst2-minilm-64x1"), 3) == ["retrain-1.5x", "retrain-2x", "retrain-3x"]


@pytest.mark.parametrize(("asked", "said"), [
    ({"audience": "loud"}, "short, technical"), ({"title": "x" * 121}, "121 characters"),
    ({"words": "x" * 1201}, "1,201"), ({"allowed": -1}, "out of range"), ({"allowed": float("nan")}, "out of range")])
def test_what_cannot_be_asked_is_told(asked, said):
    with pytest.raises(InputError, match=said):
        Request(**asked)


@pytest.mark.parametrize(("text", "said"), [
    ("[", "not JSON"), ("[" * 100_000, "not JSON"),
    ("{}", "list of 1 to 4"), ("[]", "list of 1 to 4"), ("[1]", "list of 1 to 4"),
    (json.dumps([{"at": "dense", "share": 0.5}] * 5), "list of 1 to 4"),
    ('[{"at": "nowhere", "share": 0.5}]', "its stages: dense, penalty-2x"),
    ('[{"at": ["dense"], "share": 0.5}]', "no recorded snapshot"), ('[{"at": "dense", "share": 1}]', "needed: a scope"),
    ('[{"at": "dense"}]', "needed: a scope"), ('[{"at": "dense", "scope": "all", "share": 0.1}]', "needed: a scope"),
    ('[{"at": "dense", "thresholds": {"all": "NaN"}}]', "needed: a scope"),
    ('[{"at": "dense", "share": 0.5, "by": "surgeon"}]', "one of norm"),
    ('[{"at": "dense", "share": 0.5, "repaired": "yes"}]', "true or false")])
def test_settings_that_cannot_be_read_are_told_in_one_line(run, text, said):
    with pytest.raises(InputError, match=said) as told:
        from_json(text, run)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_settings_survive_their_text(run):
    by_layer = Cut("layer", None, {f"layer {i}": 0.1 * i for i in range(6)}, repaired=True)
    some = [Setting("setting A", run.saved("dense"), Cut("global", 0.5)),
            Setting("setting B", run.saved("penalty-2x"), by_layer)]
    assert from_json(as_text(some, run), run) == some


def test_without_weights_a_report_has_recorded_and_predicted_scores_and_says_so(run):
    settings = [Setting("a", run.saved("dense"), Cut("global", 0.3)), *results(run)]
    told = findings.find(run, settings, measured=False, profile=make_profile())
    mask = mask_at_sparsity(run.norms(run.saved("dense")), run.layout, 0.3)
    surface = run.snapshots[run.saved("dense")].surface
    assert told[0].score == ReportedScore(*predict(surface, mask.sparsity), 872, False)
    assert told[1].score.exact and told[1].score.value == 0.885
    assert told[0].speed.value == pytest.approx(make_profile().speedup(mask, BATCH, run.heads, "fp32"))
    assert not told[0].speed.measured and told[0].speed.mark == ""
    assert (told[0].speed.rival, told[0].speed.arithmetic) == ("openvino bf16", "fp32")
    for audience, form in product(AUDIENCES, (write.html, write.markdown)):
        content = form(run, told, Request(audience=audience), DAY)
        text = re.sub(r"<[^>]+>", " ", content.split("<script")[0].split("<template")[0])
        assert "openvino bf16" in text and "fp32" in text
        assert "predicted" in text and f"{told[0].score.value:.3f}" in text and "0.885" in text
        # What is not known is left out, or is one sentence; no command lines for those who decide
        why = "Which answers change cannot be told: the weights of retrain-2x are not in this copy"
        technical = audience == "technical"
        assert [why in text.replace("\\", ""), "What is lost" in text, "To reproduce it" in text] == [technical] * 3
        assert ("prune_core" in text) is technical and "Not known" not in text and "uncut" not in text
        assert f"{told[1].speed.each_ms[1]:.1f}" in text
        measured = re.search(r"Measured:\W*(.*?)Predicted:", text, re.S)[1]
        assert "speedup" not in measured and "dev score of B" in measured


def test_exact_scores_flips_and_speedups_are_those_of_the_core(trained, monkeypatch):
    monkeypatch.setattr(findings, "BATCH", Batch(4, 16))  # what this small model has positions for
    settings = [Setting("a", trained.saved("dense"), Cut("matrix", 0.5)),
                Setting("b", trained.saved("dense"), Cut("global", 0.8, repaired=True))]
    steps = []
    told = findings.find(trained, settings, tell=lambda *step: steps.append(step))
    assert steps[0] == (0, 6, "a: dev score") and steps[-1] == (6, 6, "writing")
    bench = Bench(trained, "dense")
    nothing = mask_at_sparsity(trained.norms(trained.saved("dense")), trained.layout, 0.0)
    before, truth = bench.outputs(nothing).argmax(1), bench.examples.labels
    for one, setting in zip(told, settings, strict=True):
        exact = evaluate(trained, "dense", setting.cut, bench=bench)
        score = one.score
        assert score.exact
        assert (score.value, score.low, score.examples) == (exact["score"], exact["low"], exact["examples"])
        after = bench.outputs(one.mask, setting.cut.repaired).argmax(1)
        assert one.flips.lost == int(((before == truth) & (after != truth)).sum())
        assert one.flips.won == int(((before != truth) & (after == truth)).sum())
        assert (one.flips.lost - one.flips.won) / len(truth) == pytest.approx(trained.dense_score - one.score.value)
        assert all(flip.before == flip.truth != flip.after for flip in one.flips.worst)
        assert one.speed.measured and one.speed.dense_ms == told[0].speed.dense_ms  # in turn, against one dense
        assert one.speed.value == pytest.approx(one.speed.dense_ms / one.speed.compact_ms)
    kept = trained.answers.timings()[-2:]
    assert [timing["mask"] for timing in kept] == [one.mask.digest() for one in told]
    assert all(timing["when"] > 1e9 and "load" in timing for timing in kept)
    findings.find(trained, settings)
    assert len(trained.answers.timings()) == 4  # what was measured before is not taken for now
    assert [one.speed for one in findings.find(trained, settings, measured=False)] == [None, None]  # nor mixed with it
    content = write.html(trained, told, Request(), DAY)
    assert f"measured: A {told[0].speed.value:.2f}x, B {told[1].speed.value:.2f}x" in content


def test_why_there_is_no_exact_score_is_what_is_wrong(trained):
    one = Setting("a", trained.saved("dense"), Cut("global", 0.3))
    moved = Run(trained.path)
    moved.config = replace(moved.config, model="/nowhere/at/all")
    _, bench, why = findings.exact(moved, one, one.mask(moved), findings._Benches(moved, None))
    assert bench is None and "checkpoint '/nowhere/at/all' is not there" in why and "this copy" not in why


def test_where_none_can_be_measured_all_are_predicted(run):
    some = [Setting("a", run.saved("dense"), Cut("global", share)) for share in (0.3, 0.5)]
    masks = [one.mask(run) for one in some]
    gone = Run(run.path)
    gone.config = replace(gone.config, model="/nowhere/at/all")
    gone.about = gone.about | {"checkpoint": {}}
    told = findings.speedups([(gone, one) for one in some], masks, True, make_profile())
    assert [one.measured for one in told] == [False, False]


def test_regression_says_what_moved_most(run):
    known = UncutAnswers.__new__(UncutAnswers)
    known.outputs = np.array([[1.0], [2.0], [3.0]], np.float32)
    known.task = type("Task", (), {"labels": ()})
    known.examples = type("Examples", (), {"labels": [1.0, 2.5, 3.0], "texts": [("a", "b"), ("c", "d"), ("e", "f")]})
    told = known.against(np.array([[1.1], [0.0], [3.7]], np.float32), 0.5)
    assert (told.changed, told.lost) == (2, None) and [flip.texts[0] for flip in told.worst] == ["c", "e", "a"]
    assert told.worst[0] == Flip(("c", "d"), "2.50", "2.00", "0.00", None, 0.5)
    content = write.html(run, [replace(finding(run, 0.5, 0.9, 2.0), flips=told)], Request(), DAY)
    assert "2 of 3 answers moved by more than 0.5" in content


def hostile(run: Run) -> list[Finding]:
    """Findings with texts from a data set that wishes us ill."""
    flip = Flip((HOSTILE * 5, HOSTILE), HOSTILE, HOSTILE, HOSTILE, 0.9, 0.5)
    speed = ReportedSpeed(2.0, BATCH, 2, HOSTILE, 100.0, 50.0)
    flips = Flips(872, 300, 200, 100, (flip,) * 5)
    return [replace(finding(run, share, 0.89, 2.0), speed=speed, flips=flips, why_no_flips=HOSTILE)
            for share in (0.3, 0.5, 0.6, 0.7)]


def test_no_text_becomes_html_or_marks(run):
    asked = Request(title=HOSTILE[:120], words=f"{HOSTILE}\n# no heading\n| no | cell |", audience="technical")
    content = write.html(run, hostile(run), asked, DAY)
    body = content.split('<template id="parts">')[0]
    assert "<script>alert" not in content and "<img" not in body and "49" not in re.findall(r"<h1>.*?</h1>", body)[0]
    assert content.count("<script") == 2 and content.count("</script>") == 2
    text = write.markdown(run, hostile(run), asked, DAY)
    assert "<" not in text and "\n# no heading" not in text and "\n| no" not in text and "\\# no heading" in text


pytest_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def offline(browser):
    """A page without any connection; `said` collects errors and requests."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1000})
    page = context.new_page()
    page.said = []
    page.on("console", lambda one: page.said.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.said.append(str(error)))
    here = ("file:", "data:")
    page.on("request", lambda request: page.said.append(request.url) if not request.url.startswith(here) else None)
    yield page
    context.close()


def shown(page) -> dict[str, str]:
    return {name: page.locator(f"[data-number={name}] .value").inner_text()
            for name in ("sparsity", "encoder", "speedup", "score")}


def counted(run: Run, setting: Setting) -> dict[str, str]:
    """The map's numbers, by the core."""
    mask, surface = setting.mask(run), setting.surface(run)
    return {"sparsity": f"{mask.sparsity:.1%}", "encoder": f"{mask.compression_encoder:.2f}x",
            "score": f"{predict(surface, mask.sparsity)[0]:.3f}",
            "speedup": f"{make_profile().speedup(mask, BATCH, run.heads, 'fp32'):.2f}x"}


def test_a_report_marks_predictions_for_another_machine(run):
    profile = make_profile("Another Chip")
    told = findings.find(run, results(run), measured=False, profile=profile)
    for form in (write.html, write.markdown):
        more = (profile,) if form is write.html else ()
        text = form(run, told, Request(), DAY, *more)
        assert "predicted on Another Chip, not this machine" in text.replace("\\", "")
    assert '"mark":"on Another Chip, not this machine"' in write.html(run, told, Request(), DAY, profile)


@pytest_chromium
def test_the_file_works_offline_with_a_live_map(run, offline, tmp_path):
    settings = [Setting("a", run.saved("dense"), Cut("global", 0.3)),
                Setting("b", run.saved("penalty-2x"), Cut("global", 0.6))]
    told = findings.find(run, settings, measured=False, profile=make_profile())
    write.write(tmp_path / "report.html", write.html(run, told, Request(title="What we can do"), DAY, make_profile()))
    offline.goto(f"file://{tmp_path}/report.html")
    offline.wait_for_selector(".prunescope[data-draw-ms]")
    assert offline.title() == "What we can do"
    first = recommend.recommended(run.dense_score, told, 0.01)[0]
    assert shown(offline) == counted(run, settings[first])
    for at, letter in ((1, "B"), (0, "A")):
        offline.get_by_role("button", name=f"Setting {letter}").click()
        offline.wait_for_timeout(100)
        assert shown(offline) == counted(run, settings[at])
    offline.locator("canvas.histogram").scroll_into_view_if_needed()
    box = offline.locator("canvas.histogram").bounding_box()
    offline.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)
    offline.mouse.down()
    offline.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=10)
    offline.mouse.up()
    offline.wait_for_timeout(100)
    dragged = float(shown(offline)["sparsity"].rstrip("%")) / 100
    assert dragged > 0.4
    offline.keyboard.press("Home")
    offline.wait_for_timeout(100)
    assert shown(offline)["sparsity"] == "0.0%"
    assert offline.said == []


@pytest_chromium
@pytest.mark.parametrize("audience", AUDIENCES)
def test_it_prints_on_two_pages_whatever_is_said(run, offline, tmp_path, audience):
    asked = Request("A title that is as long as it may be, which is very long " * 2, audience,
                    "Words of a person who has much to say. " * 30)
    write.write(tmp_path / "report.html", write.html(run, hostile(run), asked, DAY, make_profile()))
    offline.goto(f"file://{tmp_path}/report.html")
    offline.wait_for_selector(".prunescope[data-draw-ms]")
    printed = offline.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page[^s]", printed)) == 2
    assert offline.said == []


@pytest.mark.parametrize("to", ["report", "markdown", "both"])
def test_the_command_writes_it_once(trained, tmp_path, to):
    settings = json.dumps([{"at": "dense", "share": 0.5}, {"at": "retrain-3x", "thresholds": {"all": 0}}])

    def export(*more):
        return prune_core("export", trained.name, tmp_path / "out", f"--runs-dir={trained.path.parent}", f"--to={to}",
                          "--json", f"--settings={settings}", "--no-measure", *more)

    done = export()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["settings"] == 2 and "6/6 writing" in done.stderr
    word = told["verdict"].split(" ", 1)
    assert told["advice"].startswith(f"Ship {told['recommended']}" if told["recommended"] else "Do not ship: ")
    assert ("with care" in told["advice"]) is (word[-1] == "with care") and bool(told["recommended"]) is (
        word[0] == "ship")
    for path in tmp_path.iterdir():  # what is told stands in the file
        assert told["advice"] in path.read_text()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == (["out.html", "out.md"] if to == "both" else ["out"])
    again = export()
    assert again.returncode == 2 and "is there already" in again.stderr and again.stderr.count("\n") == 1
    assert export("--sparsity=0.5").returncode == 2
