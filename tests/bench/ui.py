"""Explore under a real hand: frames while a threshold is dragged, the server's answer, the first map, bytes sent."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from browsing import chromium, served
from sample_run import make_layout, make_run

DRAGS = 12
# (name, layout, aims: milliseconds a frame, milliseconds until the server's numbers)
SIZES = {"minilm": ((6, 384, 1536, "64x1"), 1000 / 60, 150), "bert-base": ((12, 768, 3072, "256x1"), 1000 / 30, 250)}

# Times of frames while the mouse is down, and of the server's words that have the sparsity on the card
WATCH = """
() => {
  window.frames_ = []; window.draws = []; window.answers = []; window.held = false; window.released = null;
  const maps = () => [...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.prunescope'));
  const root = () => window.inner ??= maps().find(Boolean);
  addEventListener('pointerdown', () => { held = true; }, true);
  addEventListener('pointerup', () => { held = false; released = performance.now(); }, true);
  let last = 0;
  const frame = (now) => {
    if (held && last) { frames_.push(now - last); draws.push(Number(root().dataset.drawMs)); }
    last = held ? now : 0;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  new MutationObserver(() => {
    if (released === null) return;
    const wanted = 'sparsity ' + root().querySelector('[data-number=sparsity] .value').textContent;
    const captions = [...document.querySelectorAll('[data-testid=stCaptionContainer]')];
    const said = captions.some((e) => e.textContent.includes(wanted));
    if (said) { answers.push(performance.now() - released); released = null; }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}
"""


def run(only: str | None = None) -> Iterator[dict]:
    """Rows of {"what", "figure", "unit", "aim", "met"}; `only`: minilm or bert-base."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (layout, _, _) in SIZES.items():
            make_run(Path(folder), name, layout=make_layout(*layout))
        with served(Path(folder)) as address, chromium() as browser:
            for name, (_, frame, answer) in SIZES.items():
                if only in (None, name):
                    yield from _one(browser, address, name, frame, answer)


def _one(browser, address: str, name: str, frame_aim: float, answer_aim: float) -> Iterator[dict]:
    def row(what: str, value: float, unit: str, aim: float | None = None) -> dict:
        return {"what": f"{name}: {what}", "figure": value, "unit": unit, "aim": aim,
                "met": aim is None or value <= aim}

    firsts = []
    for _ in range(3):
        page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        received = []
        page.on("websocket", lambda socket, received=received: socket.on(
            "framereceived", lambda data: received.append(len(data))))
        start = time.perf_counter()
        page.goto(f"{address}/Explore?run={name}&at=dense")
        page.wait_for_selector(".prunescope[data-draw-ms]", timeout=60_000)
        firsts.append(time.perf_counter() - start)
        page.wait_for_selector("text=blocks are kept")
    yield row("opening Explore to the first map, median of 3", float(np.median(firsts)), "s", 3)
    time.sleep(2)
    yield row("sent to show it", sum(received) / 1e6, "MB")
    page.evaluate(WATCH)
    before = len(received)
    for drag in range(DRAGS):
        _drag(page, 0.3 + 0.03 * drag)
        page.wait_for_function("released === null", timeout=10_000)
        page.wait_for_timeout(400)
    frames, draws, answers = (np.array(page.evaluate(what)) for what in ("frames_", "draws", "answers"))
    yield row("a frame during a drag, median", float(np.median(frames)), "ms", frame_aim * 1.05)
    yield row("a frame during a drag, 95th percentile", float(np.quantile(frames, 0.95)), "ms")
    yield row("counting and drawing of a frame, median", float(np.median(draws)), "ms")
    yield row("counting and drawing of a frame, 95th percentile", float(np.quantile(draws, 0.95)), "ms")
    yield row("release to the server's numbers, median", float(np.median(answers)), "ms")
    yield row("release to the server's numbers, 95th percentile", float(np.quantile(answers, 0.95)), "ms", answer_aim)
    yield row(f"sent for {DRAGS} drags, each", sum(received[before:]) / DRAGS / 1e3, "kB")


def _drag(page, to: float) -> None:
    """Press on the histogram, move there and back in small steps, release at this share of its width."""
    box = page.locator("canvas.histogram").bounding_box()
    y, left, wide = box["y"] + box["height"] / 2, box["x"] + 50, box["width"] - 70
    page.mouse.move(left + 0.5 * wide, y)
    page.mouse.down()
    for share in np.concatenate([np.linspace(0.5, 0.8, 20), np.linspace(0.8, to, 25)]):
        page.mouse.move(left + float(share) * wide, y)
    page.mouse.up()
