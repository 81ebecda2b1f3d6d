"""The app in a real browser: the map under a real hand, links that open the same view, keyboard only, no faults."""

from __future__ import annotations

import functools
import os
import re
import shutil

import numpy as np
import pytest
import tiny
from browsing import CHROMIUM, PATIENCE, chromium, playwright, served, wait
from commands import prune_core
from sample_run import make_layout, make_profile, make_run

from prune_core import files, machine
from prune_core.cutting.answers import predict
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import mask_at
from prune_core.evaluation import exact
from prune_core.evaluation.weights import write_checkpoint, write_weights
from prune_core.latency import profile_files
from prune_core.latency.profile import Batch
from prune_core.precision.formats import Formats
from prune_core.precision.storage import storage
from prune_core.runs import pack, places
from prune_core.runs.run import Run
from prune_core.runs.settings import cut_of
from prune_core.showing import lesson

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
DRAWN = ".prunescope[data-draw-ms]"
SETTING = Batch(32, 128)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("browser") / "runs"


@pytest.fixture(scope="module")
def app(runs_dir, tiny_model, tiny_data):
    """The address of the app, with a run of MiniLM's size, one that has weights, and a latency profile."""
    make_run(runs_dir, "recorded", layout=make_layout(6, 384, 1536, "64x1"))
    tiny.make_run(tiny.settings(tiny_model, tiny_data), runs_dir, "scored")
    before, built = os.environ.get("XDG_CACHE_HOME"), list(files.cache_folder().glob("*.so"))
    os.environ["XDG_CACHE_HOME"] = str(runs_dir.parent / "cache")
    files.cache_folder().mkdir(parents=True)
    for kernels in built:  # those of this machine need no building again
        shutil.copy(kernels, files.cache_folder())
    try:
        profile_files.write(make_profile(), profile_files.own_file(machine.machine(), os.cpu_count() or 1))
        with served(runs_dir) as address:
            yield address
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def profiles(browser):
    """Width, colour scheme -> the browser profile for them: one for all tests, so that scripts are read once."""
    @functools.cache
    def profile(width: int, scheme: str):
        viewport = {"width": width, "height": 1000}
        return browser.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True)

    return profile


@pytest.fixture
def page(profiles, request):
    """A page of its own; `page.problems` collects its errors. Parameter: width, or (width, colour scheme)."""
    asked = getattr(request, "param", 1440)
    page = watched(profiles(*asked) if isinstance(asked, tuple) else profiles(asked, "light"))
    yield page
    page.close()


def watched(context):
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))

    def heard(said) -> None:
        if is_problem(said):
            page.problems.append(f"{said.text} ({said.location.get('url')})")

    page.on("console", heard)
    return page


def is_problem(said) -> bool:
    """Errors, but for those with which Streamlit finds its base path on a deep link (404 on /Explore/_stcore/...)."""
    return said.type == "error" and not re.search(r"/\w+/_stcore/(health|host-config)$", said.location.get("url", ""))


def opened(page, address: str):
    page.goto(address)
    page.wait_for_selector(DRAWN)
    page.wait_for_selector("text=blocks are kept")
    return page


def still(page) -> None:
    """Until the page's script has run: what is pressed before can be lost, and what is computed anew is pale."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def rested(page) -> str:
    """The address, once the server has said what the cards say."""
    page.wait_for_timeout(350)  # the hand rests
    playwright.expect(page.locator("text=/blocks are kept at/")).to_contain_text(f"sparsity {shown(page)['sparsity']}")
    page.wait_for_timeout(150)
    return page.url


def shown(page) -> dict[str, str]:
    """What stands on the cards over the map."""
    names = ("sparsity", "encoder", "model", "speedup", "encoderBytes", "score")
    return {name: page.locator(f"[data-number={name}] .value").inner_text() for name in names}


def counted(run: Run, label: str, thresholds, scope: str = "global") -> dict[str, str]:
    """The same by prune_core."""
    at = next(at for at in run.with_norms if run.snapshots[at].label == label)
    mask = mask_at(run.norms(at), run.layout, thresholds, scope)
    score = predict(run.snapshots[at].surface, mask.sparsity)[0] if run.snapshots[at].surface else None
    size = storage(mask, Formats()).encoder.stored
    return {"sparsity": f"{mask.sparsity:.1%}", "encoder": f"{mask.compression_encoder:.2f}x",
            "model": f"{mask.compression_model:.2f}x", "score": "–" if score is None else f"{score:.3f}",
            "speedup": f"{make_profile().speedup(mask, SETTING, run.heads):.2f}x",
            "encoderBytes": f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"}


def thresholds_in(address: str) -> list[float]:
    """What `cut=scope:0.1,0.2` says."""
    return [float(one) for one in re.search(r"cut=\w+(?:%3A|:)([^&]*)", address)[1].replace("%2C", ",").split(",")]


def drag(page, *shares: float) -> None:
    """Press on the histogram, move over these shares of its width in small steps, release."""
    box = page.locator("canvas.histogram").bounding_box()
    points = [(box["x"] + 50 + share * (box["width"] - 70), box["y"] + box["height"] / 2) for share in shares]
    page.mouse.move(*points[0])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(x, y, steps=12)
    page.mouse.up()


# ---------------------------------------------------------------- the map


@pytest.mark.parametrize("page", [(1440, "light"), (800, "dark")], indirect=True)
def test_explore_shows_the_map_and_both_charts(app, page, tmp_path):
    """How soon is for `python -m tests.bench ui` to tell."""
    page.goto(f"{app}/Explore?run=recorded")
    page.wait_for_selector(DRAWN)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
    page.screenshot(path=tmp_path / "explore.png", full_page=True)
    assert (tmp_path / "explore.png").stat().st_size > 20_000
    assert not page.problems
    fits = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert fits, "the page is wider than the window"


def test_dragging_the_handle_moves_everything_at_once_and_says_what_the_core_counts(app, page, runs_dir):
    run = Run(runs_dir / "recorded")
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    before = shown(page)
    box = page.locator("canvas.histogram").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 300, y)
    page.mouse.down()
    seen = []
    for step in range(6):
        page.mouse.move(box["x"] + 300 + 60 * step, y)
        page.wait_for_timeout(60)
        seen.append(shown(page)["sparsity"])
    assert len(set(seen)) == 6 and [float(s[:-1]) for s in seen] == sorted(float(s[:-1]) for s in seen)
    page.mouse.up()
    threshold = thresholds_in(rested(page))[0]
    assert shown(page) == counted(run, "dense", threshold) != before
    assert not page.problems


def test_undo_redo_and_reset(app, page):
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    start = shown(page)
    drag(page, 0.4, 0.6)
    first = shown(page)
    drag(page, 0.6, 0.8)
    second = shown(page)
    assert len({start["sparsity"], first["sparsity"], second["sparsity"]}) == 3
    page.get_by_role("button", name="Undo").click()
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text(first["sparsity"])
    page.keyboard.press("Control+z")
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text(start["sparsity"])
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+y")
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text(second["sparsity"])
    page.get_by_role("button", name="Reset", exact=True).click()
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text(start["sparsity"])
    rested(page)


def test_keyboard_only(app, page, runs_dir):
    run = Run(runs_dir / "recorded")
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    for _ in range(50):  # from the top of the page, by Tab alone; eight of them lead through the bits
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.shadowRoot?.activeElement?.className") == "handle":
            break
    handle = page.get_by_role("slider", name="Threshold")
    playwright.expect(handle).to_be_focused()
    at = float(handle.get_attribute("aria-valuenow"))
    for key, change in (("ArrowRight", 0.25), ("ArrowLeft", -0.25), ("PageUp", 5.0), ("PageDown", -5.0)):
        page.keyboard.press(key)
        page.wait_for_timeout(80)
        now = float(handle.get_attribute("aria-valuenow"))
        assert now - at == pytest.approx(change, abs=0.011)
        at = now
    page.keyboard.press("End")
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text("99.0%")
    page.keyboard.press("Home")
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text("0.0%")
    page.locator("input.norm").fill("0.5")
    page.keyboard.press("Enter")
    playwright.expect(page).to_have_url(re.compile("cut=global(%3A|:)"))
    assert thresholds_in(rested(page)) == [0.5]
    assert shown(page) == counted(run, "dense", 0.5)
    assert not page.problems


def test_a_threshold_for_each_layer(app, page, runs_dir):
    run = Run(runs_dir / "recorded")
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    page.get_by_role("button", name="Each layer").click()
    page.locator("select.key").select_option("layer 3")
    drag(page, 0.5, 0.7)
    page.locator("select.key").select_option("layer 0")
    page.locator("input.share").fill("20")
    page.keyboard.press("Enter")
    values = thresholds_in(rested(page))
    thresholds = {f"layer {at}": value for at, value in enumerate(values)}
    assert len(set(values)) >= 3
    assert shown(page) == counted(run, "dense", thresholds, "layer") | {"score": "–"}, "no score of another cut"
    at = run.saved("dense")
    cut = mask_at(run.norms(at), run.layout, thresholds, "layer")
    mine = [cut.matrix_sparsity(m.name) for m in run.layout.matrices if m.layer == 0]
    sizes = [m.m * m.n for m in run.layout.matrices if m.layer == 0]
    assert np.average(mine, weights=sizes) == pytest.approx(0.2, abs=0.001)


def test_the_trajectory_plays_pauses_and_steps(app, page, runs_dir):
    run = Run(runs_dir / "recorded")
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global:0.5")
    when, labels = page.locator(".when"), [run.snapshots[at].label for at in run.with_norms]
    assert when.inner_text() == "dense" == labels[0]
    milestones = [at for at in run.with_norms if run.snapshots[at].milestone and not run.snapshots[at].saved]
    assert page.locator(".marks .milestone").count() == len(milestones)
    when.evaluate("""(element) => {
        window.seen = [element.textContent];
        new MutationObserver(() => seen.push(element.textContent))
            .observe(element, {childList: true, characterData: true, subtree: true}); }""")
    page.get_by_role("button", name="Play the reweighting").click()
    page.wait_for_function("(last) => seen.includes(last)", arg=labels[-1])
    assert set(labels) <= set(page.evaluate("seen"))
    page.wait_for_selector("button[aria-label='Play the reweighting']")  # it stops by itself at the end
    page.get_by_role("button", name="One snapshot back").click()
    playwright.expect(when).to_have_text(labels[-2])
    page.wait_for_url(re.compile("at=" + re.escape(labels[-2])))
    playwright.expect(page.locator("text=/blocks are kept at/")).to_contain_text(labels[-2])
    assert shown(page) == counted(run, labels[-2], 0.5)
    page.get_by_role("slider", name="Snapshot").focus()
    page.keyboard.press("Home")
    playwright.expect(when).to_have_text(labels[0])
    assert not page.problems


def test_an_answer_that_comes_late_does_not_take_the_hand_back(app, page, runs_dir):
    run = Run(runs_dir / "recorded")
    labels = [run.snapshots[at].label for at in run.with_norms]
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global:0.5")
    page.locator(".prunescope").evaluate("""(root) => {
        const when = root.querySelector('.when');
        root.seen = [];
        new MutationObserver(() => root.seen.push(when.textContent))
            .observe(when, { childList: true, characterData: true, subtree: true });
        root.view.player.step(1);
        root.view.teller.now();  // asked: and before the answer, one further
        root.view.player.step(1); }""")
    playwright.expect(page.locator("text=/blocks are kept at/")).to_contain_text(labels[2])
    seen = page.locator(".prunescope").evaluate("(root) => root.seen")
    assert labels[1] not in seen[seen.index(labels[2]):] and seen[-1] == labels[2]
    assert shown(page) == counted(run, labels[2], 0.5)


def test_going_back_to_a_snapshot_shows_it_at_once_and_sends_no_norms(app, page, runs_dir):
    run, received = Run(runs_dir / "recorded"), []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda payload: received.append(len(payload))))
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global:0.5")
    labels, said = [run.snapshots[at].label for at in run.with_norms], page.locator("text=/blocks are kept at/")
    page.get_by_role("button", name="One snapshot on").click()
    playwright.expect(said).to_contain_text(labels[1])
    assert shown(page) == counted(run, labels[1], 0.5) and max(received) > 4 * 80_000
    page.wait_for_timeout(1500)  # charts follow
    received.clear()
    at_once = page.locator(".prunescope").evaluate("""(root) => { root.view.player.step(-1); root.view.paint();
        const cards = [...root.querySelectorAll('[data-number]')];
        const value = (card) => card.querySelector('.value').textContent;
        return Object.fromEntries(cards.map((card) => [card.dataset.number, value(card)])); }""")
    assert at_once == counted(run, labels[0], 0.5), "before the server knows of it"
    playwright.expect(said).to_contain_text(labels[0])
    page.wait_for_timeout(1500)
    assert shown(page) == at_once and received and max(received) < 100_000
    # What the server takes this browser for having, and it has not, is asked for
    page.locator(".prunescope").evaluate("""(root) => {
        const text = new TextEncoder().encode('{"id":"gone","now":{}}'), bytes = new Uint8Array(4 + text.length);
        new DataView(bytes.buffer).setUint32(0, text.length, true);
        bytes.set(text, 4);
        root.view.snapshots.sent.clear();
        root.view.receive(bytes, root.view.teller.send); }""")
    root = page.locator(".prunescope").element_handle()
    page.wait_for_function("(root) => root.view.snapshots.sent.size === 1", arg=root)
    assert shown(page) == at_once and not page.problems


def test_charts_follow_the_map_once_they_are_in_sight(app, page):
    page.set_viewport_size({"width": 1280, "height": 700})
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global:0.5")
    chart = page.locator(".js-plotly-plot").first
    playwright.expect(chart).to_be_attached()
    page.wait_for_timeout(1500)

    def marked() -> float:
        return chart.evaluate("(chart) => chart.data?.find((one) => one.name === 'predicted here').x[0] ?? 0")

    def follow() -> None:
        def same() -> bool:
            page.wait_for_timeout(50)
            return abs(marked() - float(shown(page)["encoder"].removesuffix("x"))) <= 0.006

        wait("the chart follows the map", same)

    follow()
    before = marked()
    drag(page, 0.3, 0.6)
    rested(page)
    page.wait_for_timeout(1500)
    assert marked() == before and not shown(page)["encoder"].startswith(f"{before:.1f}"), "nobody sees them"
    page.locator("[data-testid=stTabs]").scroll_into_view_if_needed()
    follow()
    page.set_viewport_size({"width": 1280, "height": 2000})  # both in sight: at once
    page.wait_for_timeout(500)
    drag(page, 0.5, 0.4)
    rested(page)
    follow()
    assert not page.problems


def test_a_copied_link_opens_the_same_view_in_another_browser(app, page, browser):
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    page.get_by_role("button", name="Pin").click()
    page.get_by_role("button", name="Each type").click()
    page.locator("select.key").select_option("intermediate")
    drag(page, 0.3, 0.5)
    page.locator("select.zoom").select_option(label="layer 2 output")
    rested(page)
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    other = opened(watched(context), page.url)
    assert shown(other) == shown(page)
    for what in ("select.key", "select.zoom", "input.share", "input.norm"):
        assert other.locator(what).input_value() == page.locator(what).input_value()
    assert other.locator(".pins button").first.inner_text() == page.locator(".pins button").first.inner_text()
    assert not other.problems
    context.close()


def test_a_pinned_setting_is_compared_and_comes_back(app, page):
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    start = shown(page)
    page.get_by_role("button", name="Pin").click()
    drag(page, 0.5, 0.8)
    against = page.locator("[data-number=encoder] .against")
    playwright.expect(against).to_contain_text(f"A {start['encoder']}, +")
    charts = page.locator("[data-testid=stTabs]")  # what is below the map follows it while one sees it
    charts.scroll_into_view_if_needed()
    playwright.expect(page.locator("text=Pinned settings beside the present one")).to_be_visible()
    page.get_by_role("button", name="Go to pinned setting A").click()
    playwright.expect(page.locator("[data-number=sparsity] .value")).to_have_text(start["sparsity"])
    page.get_by_role("button", name="Remove pinned setting A").click()
    charts.scroll_into_view_if_needed()
    playwright.expect(page.locator("text=Pinned settings beside the present one")).to_have_count(0)


def test_the_speedup_is_of_the_chosen_precision_and_a_pin_brings_its_own_back(app, page, runs_dir):
    run, profile = Run(runs_dir / "recorded"), make_profile()
    mask = mask_at(run.norms(run.saved("dense")), run.layout, 0.0)
    card, beside = page.locator("[data-number=speedup] .value"), page.locator("[data-number=speedup] .beside")
    said = {name: f"{profile.speedup(mask, SETTING, run.heads, name):.2f}x" for name in ("auto", "fp32", "bf16")}
    assert said["auto"] == said["bf16"] != said["fp32"]
    opened(page, f"{app}/Explore?run=recorded&at=dense&cut=global:0&dtype=fp32")
    playwright.expect(card).to_have_text(said["fp32"])
    playwright.expect(beside).to_have_text("over openvino bf16, in fp32")
    playwright.expect(page.locator("[data-number=speedup] .mark")).to_have_text("")
    page.get_by_role("button", name="Pin").click()
    playwright.expect(page).to_have_url(re.compile("for-fp32"))
    page.get_by_role("radiogroup", name="Precision of the speedup").get_by_text("bf16", exact=True).click()
    playwright.expect(card).to_have_text(said["bf16"])
    playwright.expect(beside).to_have_text("over openvino bf16, in bf16")
    playwright.expect(page).to_have_url(re.compile("dtype=bf16"))
    page.get_by_role("button", name="Go to pinned setting A").click()
    playwright.expect(card).to_have_text(said["fp32"])
    playwright.expect(page).to_have_url(re.compile("dtype=fp32"))
    assert not page.problems


def test_a_click_zooms_and_hovering_tells_the_exact_norm(app, page, runs_dir):
    run = Run(runs_dir / "recorded")
    norms = run.norms(run.saved("dense"))
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    page.locator("canvas.map").click(position={"x": 500, "y": 220})
    playwright.expect(page.locator("select.zoom")).not_to_have_value("")
    name = page.locator("select.zoom").input_value()
    page.locator("canvas.map").hover(position={"x": 400, "y": 250})
    tip = page.locator(".tip").inner_text()
    rows, column = re.search(r"rows (\d+)–\d+, column (\d+)", tip).groups()
    assert f"norm {norms[name][int(rows) // 64, int(column)]:.4g}"[:9] in tip
    page.keyboard.press("Tab")
    page.locator("select.zoom").focus()
    page.keyboard.press("Escape")
    playwright.expect(page.locator("select.zoom")).to_have_value("")


@pytest.mark.parametrize("kind", ["PNG", "SVG"])
def test_the_map_is_saved_as_a_picture(app, page, kind):
    opened(page, f"{app}/Explore?run=recorded&at=dense")
    with page.expect_download() as found:
        page.get_by_role("button", name=kind, exact=True).click()
    path = found.value.path()
    assert found.value.suggested_filename == f"recorded-dense.{kind.lower()}"
    content = path.read_bytes()
    if kind == "PNG":
        assert content.startswith(b"\x89PNG")
    else:
        assert content.startswith(b"<svg") and content.count(b"<image") == 36
    assert len(content) > 20_000


def test_the_exact_score_comes_by_itself_after_the_hand_rests(app, page, runs_dir):
    run = Run(runs_dir / "scored")
    opened(page, f"{app}/Explore?run=scored&at=dense")
    said = page.locator("text=/Exact dev accuracy .*examples/")
    playwright.expect(said).to_be_visible()
    drag(page, 0.3, 0.45)
    share = float(re.search(r"cut=matrix%40([\d.]+)", rested(page))[1])
    expected = exact.evaluate(run, "dense", cut_of(run, share, scope="matrix"), threads=1)
    playwright.expect(said).to_contain_text(f"{expected['score']:.4f}")
    assert not page.problems


# ---------------------------------------------------------------- all pages


def test_home_leads_to_a_run(app, page):
    page.goto(app)
    page.get_by_test_id("stMain").get_by_role("link", name="Explore").first.click()
    page.wait_for_selector(DRAWN)
    assert "run=" in page.url
    page.get_by_test_id("stSidebar").get_by_role("link", name="Prune").click()
    playwright.expect(page.get_by_role("button", name="Start")).to_be_visible()
    assert not page.problems


def test_compare_answers_otherwise_to_other_points_and_aims(app, page):
    """The line on top follows the points and the aim, both stand in the address, and it leads to that run and stage."""
    page.goto(f"{app}/Compare?task=sst2")
    answer = page.locator(".st-key-answer h3")
    playwright.expect(answer).to_have_text(re.compile(r"^(Within|None is within) 1 point of dense \(0\.\d{3}\): "))
    points = page.get_by_role("spinbutton", name="Maximum loss (points)")
    points.fill("20")
    points.press("Enter")
    playwright.expect(answer).to_have_text(re.compile(r"^Within 20 points of dense .* times as fast \(predicted\)$"))
    fast = answer.inner_text()
    page.locator(".st-key-aim").get_by_text("Score", exact=True).click()
    playwright.expect(answer).not_to_have_text(fast)
    best = answer.inner_text()
    assert float(re.search(r"by .*, (0\.\d+)", best)[1]) > float(re.search(r"by .*, (0\.\d+)", fast)[1])
    assert "points=20" in page.url and "aim=" in page.url
    page.get_by_test_id("stMain").get_by_role("link", name="Report on it").click()
    compression = re.search(r"(\S+)x by", best)[1]
    playwright.expect(page.get_by_role("heading", name="Report", exact=True)).to_be_visible()
    playwright.expect(page.get_by_text(f"retrain-{compression}x").first).to_be_visible()
    playwright.expect(page.get_by_role("spinbutton", name="Maximum loss (points)")).to_have_value("20.0")
    assert not page.problems


@pytest.mark.parametrize("page", [800], indirect=True)
def test_report_opens_on_the_best_run_and_tells_only_what_is_known(app, page, tmp_path):
    """Without a choice: over all runs of the task, the best first; at 800 px nothing of the report is cut off."""
    page.goto(f"{app}/Report")
    playwright.expect(page.get_by_role("button", name="Make the report")).to_be_enabled()
    still(page)
    assert "does better" not in page.get_by_test_id("stMain").inner_text()
    page.get_by_role("button", name="Make the report").click()
    page.wait_for_selector("iframe")
    with page.expect_download() as given:
        page.get_by_role("button", name="HTML (").click()
    given.value.save_as(tmp_path / "report.html")
    assert not page.problems
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_selector(DRAWN)
    text = page.locator("main").inner_text()
    assert re.search(r"^(Ship|Test|Do not ship: )", page.locator(".advice h2").inner_text())
    assert "not known" not in text.lower() and "prune_core" not in text and "{" not in text
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_lesson_by_keyboard_only(app, page):
    """From the first step to the last with Tab, Enter and arrow keys; a slider is moved, an answer unfolded."""
    page.goto(f"{app}/Learn")
    expect = playwright.expect
    for number, title in enumerate(("Blocks", "The penalty", "Reweighting"), 1):
        expect(page.get_by_role("heading", name=f"{number}. {title}", exact=True)).to_be_visible()
        if number == 2:
            before = page.get_by_test_id("stMetricValue").first.inner_text()
            page.get_by_role("slider", name="λ").focus()
            for _ in range(4):
                page.keyboard.press("ArrowRight")
            expect(page.get_by_test_id("stMetricValue").first).not_to_have_text(before)
            unfold = page.locator("summary", has_text="Question:")
            unfold.focus()
            page.keyboard.press("Enter")
            expect(page.get_by_text("The needed block pays too")).to_be_visible()
        still(page)
        page.get_by_role("button", name="Next").focus()
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="4. A sentence")).to_be_visible()
    assert "step=4" in page.url and not page.problems


def test_next_works_while_the_model_is_asked(app, page):
    """Step 4 asks a process that takes seconds: whoever skips on is not held up, and does not stay there."""
    page.goto(f"{app}/Learn?step=4.+A+sentence")
    playwright.expect(page.get_by_text("Asking the model, at ten sparsities")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    playwright.expect(page.get_by_role("heading", name="5. Speed")).to_be_visible()
    page.wait_for_timeout(2500)  # the answer that comes meanwhile draws no old page
    playwright.expect(page.get_by_role("heading", name="5. Speed")).to_be_visible()
    assert not page.problems


@pytest.mark.parametrize("page", [(1440, "light"), (1440, "dark")], indirect=True)
def test_what_is_cut_is_near_the_page_and_what_is_kept_is_not(app, page):
    """On the first step the pixels of cut blocks contrast less with the page than those of most that are kept."""
    page.goto(f"{app}/Learn")
    page.wait_for_selector(".heatmaplayer image")
    drawn = page.evaluate("""async () => {
        const shown = document.querySelector(".heatmaplayer image"), picture = new Image();
        picture.src = shown.getAttribute("href") || shown.getAttribute("xlink:href");
        await picture.decode();
        const [canvas, paper] = [document.createElement("canvas"), getComputedStyle(
            document.querySelector("[data-testid=stApp]")).backgroundColor];
        [canvas.width, canvas.height] = [picture.width, picture.height];
        const context = canvas.getContext("2d");
        context.fillStyle = paper;
        context.fillRect(0, 0, canvas.width, canvas.height);
        context.drawImage(picture, 0, 0);
        const pixels = [], at = (cell, cells, size) => (cell + 0.5) * size / cells;
        for (let row = 0; row < 16; row++) for (let col = 0; col < 24; col++)
            pixels.push([...context.getImageData(at(col, 24, canvas.width), at(row, 16, canvas.height), 1, 1).data]
                .slice(0, 3));
        return {paper: paper.match(/[0-9.]+/g).slice(0, 3).map(Number), pixels};
    }""")
    strips = BlockShape.parse("4x1")
    kept = strips.expand(lesson.cut_matrix(lesson.small_matrix(), strips, 0.5).kept, 16, 24).ravel()
    against = np.array([contrast(pixel, drawn["paper"]) for pixel in drawn["pixels"]])
    assert against[~kept].max() < 2.0 and np.median(against[kept]) > against[~kept].max()


def contrast(one, other) -> float:
    """WCAG's contrast of two colours, 1 to 21."""
    def light(colour) -> float:
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", [(800, "dark"), (800, "light")], indirect=True)
def test_in_a_narrow_window_the_sidebar_is_folded_until_it_is_opened(app, page):
    expect, bar = playwright.expect, page.get_by_test_id("stSidebar")
    page.goto(f"{app}/Learn")
    expect(bar).to_have_attribute("data-collapsed", "true")
    assert page.get_by_test_id("stMain").bounding_box()["width"] == 800
    page.get_by_test_id("stExpandSidebarButton").click()
    expect(bar).to_have_attribute("data-collapsed", "false")
    assert page.get_by_test_id("stMain").bounding_box()["width"] == 800, "it lies over the page"
    bar.get_by_role("link", name="Prune").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible()
    expect(bar).to_have_attribute("data-collapsed", "true")
    page.set_viewport_size({"width": 1440, "height": 1000})
    expect(bar).to_have_attribute("data-collapsed", "false")
    page.set_viewport_size({"width": 800, "height": 1000})
    assert not page.problems


@pytest.mark.parametrize("page", [(800, "light")], indirect=True)
@pytest.mark.parametrize("path", ["", "Prune", "Learn", "Learn?step=4.+A+sentence", "Learn?step=7.+Where+it+breaks",
                                  "Learn?step=8.+Fewer+bits", "Speed?run=recorded", "Compare"])
def test_in_a_narrow_window_nothing_is_cut_off(app, page, path):
    page.goto(f"{app}/{path}")
    page.get_by_test_id("stMain").get_by_role("heading").first.wait_for()
    still(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    cut = page.evaluate("""() => [...document.querySelector("[data-testid=stMain]").querySelectorAll(
        "p, label, h1, h2, h3, button, input, [data-testid=stMetricValue], [data-baseweb=select] *")]
        .filter(one => one.checkVisibility() && one.clientWidth > 1 && one.scrollWidth > one.clientWidth + 1)
        .map(one => one.tagName + " " + (one.textContent || one.value))""")
    assert cut == []


def test_the_pruned_model_and_the_notebook_are_downloaded(app, page, tmp_path):
    """What Explore gives is a folder that holds a model, and a notebook that is one."""
    import json
    import zipfile

    page.goto(f"{app}/Explore?run=scored&at=dense&view=Export")
    page.wait_for_selector(DRAWN)
    with page.expect_download() as given:
        page.get_by_role("button", name="Notebook").click()
    given.value.save_as(tmp_path / "one.ipynb")
    assert json.loads((tmp_path / "one.ipynb").read_text())["cells"]
    page.get_by_role("button", name="Prepare").click()
    with page.expect_download() as given:
        page.get_by_role("button", name="Model (").click()
    given.value.save_as(tmp_path / "model.zip")
    names = {f"scored-hf/{name}" for name in ("model.safetensors", "config.json", "README.md")}
    assert names <= set(zipfile.ZipFile(tmp_path / "model.zip").namelist())
    assert not page.problems


def test_a_report_of_what_explore_has_in_view(app, page, tmp_path):
    """Explore hands its setting over; the report is made, shown with its live map, downloaded; no serious fault."""
    from axe_playwright_python.sync_playwright import Axe

    page.goto(f"{app}/Explore?run=scored&at=dense&view=Export&cut=matrix%400.4")
    playwright.expect(page.get_by_text(re.compile(r"Exact dev accuracy.*examples"))).to_be_visible()  # all is at rest
    page.get_by_role("link", name="Report of these settings").click()
    playwright.expect(page.get_by_text("Explore: present")).to_be_visible()
    page.get_by_role("textbox", name="Title").fill("To be handed out")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Make the report").click()
    page.wait_for_selector("iframe")
    inner = page.frame_locator("iframe").frame_locator("iframe")
    playwright.expect(inner.get_by_role("heading", name="To be handed out")).to_be_visible()
    playwright.expect(inner.locator("[data-number=sparsity] .value")).to_have_text(re.compile("^40"))
    with page.expect_download() as given:
        page.get_by_role("button", name="HTML (").click()
    given.value.save_as(tmp_path / "report.html")
    assert not page.problems
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_selector(DRAWN)
    faults = Axe().run(page).response["violations"]
    assert not [f"{v['id']}: {v['nodes'][0]['html'][:160]}" for v in faults if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("page", [(1440, "light"), (1440, "dark")], indirect=True)
@pytest.mark.parametrize("path", ["", "Prune", "Explore?run=recorded", "Explore?run=recorded&view=Layers+and+matrices",
                                  "Explore?run=recorded&present=true", "Explore?run=scored&view=Export", "Compare",
                                  "Compare?present=true", "Speed?run=recorded&present=true", "Report",
                                  "Speed?run=recorded", "Learn", "Learn?step=6.+Three+faults",
                                  "Report?run=scored"])
def test_no_serious_accessibility_fault(app, page, path):
    from axe_playwright_python.sync_playwright import Axe

    page.goto(f"{app}/{path}")
    page.wait_for_selector(DRAWN if path.startswith("Explore") else "[data-testid=stMain] h1")
    for width in (1440, 800):
        page.set_viewport_size({"width": width, "height": 1000})
        still(page)
        page.wait_for_timeout(1500)  # what is computed anew turns pale for a second
        faults = [f"{width}: {fault['impact']}: {fault['id']}: {fault['nodes'][0]['html'][:160]}"
                  for fault in Axe().run(page).response["violations"] if fault["impact"] in ("serious", "critical")]
        assert not faults and not page.problems


# ---------------------------------------------------------------- weights that ship


@pytest.fixture
def packed(app, runs_dir, monkeypatch):
    """The run with weights as it ships: of its dense and its retrained stage only the kept blocks."""
    monkeypatch.setattr(pack, "PROJECT", runs_dir.parent)
    monkeypatch.setattr(places, "RECORDED", runs_dir.parent / "recorded")
    made = Run(runs_dir / "scored")
    pack.pack(made, "packed", ["dense", "retrain-3x"], made.data, write_weights,
              lambda folder: write_checkpoint(made, folder))
    shutil.copytree(places.RECORDED / "packed", runs_dir / "packed", dirs_exist_ok=True)
    return Run(runs_dir / "packed")


def test_packed_weights_give_an_exact_score_and_an_export_and_all_that_is_asked_of_weights(app, page, packed, tmp_path):
    import json
    import zipfile

    opened(page, f"{app}/Explore?run=packed&at=retrain-3x&view=Export")
    end = packed.snapshots[packed.saved("retrain-3x")]
    exactly = page.locator("[data-number=score]")  # the card, which turns from predicted to exact
    playwright.expect(exactly).to_contain_text(re.compile("exact", re.IGNORECASE))
    playwright.expect(exactly).to_contain_text(f"{end.scores['accuracy']:.3f}")
    page.get_by_role("button", name="Prepare").click()
    with page.expect_download() as given:
        page.get_by_role("button", name="Model (").click()
    given.value.save_as(tmp_path / "model.zip")
    assert "packed-hf/model.safetensors" in zipfile.ZipFile(tmp_path / "model.zip").namelist()
    assert not page.problems
    answers = []
    for name, stage in (("predict", ["--phase=retrain-3x", "a lovely film"]), ("flips", [])):
        for run in ("packed", "scored"):
            done = prune_core(name, run, *stage, "--json", f"--runs-dir={packed.path.parent}")
            answers.append(json.loads(done.stdout.splitlines()[-1]))
    probabilities = [np.array(answer["probabilities"]) for answer in answers[:2]]
    assert np.allclose(*probabilities, atol=1e-6)
    assert [answer["lost"] for answer in answers[2:]] == [answers[2]["lost"]] * 2
    done = prune_core("export", "packed", tmp_path / "report", "--to=both", "--no-measure", "--json",
                      f"--runs-dir={packed.path.parent}")
    assert done.returncode == 0 and (tmp_path / "report.html").stat().st_size > 10_000, done.stderr[-500:]


def test_a_stage_without_weights_leads_to_one_that_has_them(app, page, packed):
    opened(page, f"{app}/Explore?run=packed&at=penalty-3x")
    there = page.get_by_role("link", name="Open scored, which has them")  # made with the same settings
    playwright.expect(there).to_be_visible()
    still(page)
    page.get_by_role("button", name="Go to retrain-3x").click()
    playwright.expect(page.get_by_text("blocks are kept at retrain-3x")).to_be_visible()
    playwright.expect(there).to_have_count(0)
    assert "at=retrain-3x" in page.url and not page.problems


def test_a_click_on_a_dot_of_the_trade_opens_it_on_the_map(app, page, runs_dir):
    """The setting with 8 bits is a square; the map then shows its stage, cut and formats, and the address has them."""
    from test_trade import setting

    from prune_core.runs import tried

    run = Run(runs_dir / "scored")
    tried.keep(run, "dense", setting(run, 0.25, 0.7, "8"))
    page.goto(f"{app}/Explore?run=scored&at=penalty-3x&view=Trade")
    page.wait_for_selector(DRAWN)
    square = """() => [...document.querySelectorAll(".scatterlayer .trace")]
        .find(one => one.__data__[0].trace.name === "fewer bits")?.querySelector(".points path")"""
    page.wait_for_function(square)
    page.evaluate_handle(square).as_element().scroll_into_view_if_needed()
    still(page)
    box = page.evaluate_handle(square).as_element().bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url(re.compile(r"at=dense.*formats=8"))
    assert "cut=global%400.25" in page.url and not page.problems
