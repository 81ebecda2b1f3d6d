"""Load: ten real pages that drag, scrub and wait for exact scores beside the server on two cores; then thirty clients join that rerun the page."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from browsing import CHROMIUM, QUIET, ROOT, served

from prune_core.runs import places

GLUE = ROOT.parent / "shared" / "glue"
RUN = "sst2-minilm-64x1"  # the recorded run with weights
ANSWER, MEMORY, GROWS = 1.0, 3000.0, 150.0  # seconds at the 95th percentile; MB; MB after the warm-up


class Seen:
    """What all clients found."""

    def __init__(self) -> None:
        self.answers: list[float] = []  # seconds from release of the threshold to the server's numbers
        self.moments: list[float] = []  # seconds from the last of some steps through the run to the server's numbers
        self.crowded: list[float] = []  # both, while plain clients rerun the page
        self.reruns: list[float] = []
        self.errors: list[str] = []
        self.exact: dict[str, set[str]] = {}  # cut -> the exact scores that pages were shown for it
        self.queued = 0  # times that a page said how many are before it
        self.memory: list[float] = []
        self.start, self.opened = time.monotonic(), 999.0  # seconds until all pages stood there with all their charts, opened in one moment


async def page(browser, address: str, number: int, seconds: float, seen: Seen, all_open: asyncio.Barrier) -> None:
    """One person: drags, scrubs, lets the exact score come now and then. Every number on the page must be of this page's own cut."""
    chance, context = random.Random(number), await browser.new_context(viewport={"width": 1280, "height": 900})
    tab = await context.new_page()
    tab.on("pageerror", lambda error: seen.errors.append(f"page {number}: {error}"))
    try:
        await tab.goto(f"{address}/Explore?run={RUN}&at=dense", timeout=120_000)
        await tab.wait_for_selector("text=blocks are kept", timeout=120_000)
        await tab.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2", polling=250, timeout=120_000)
        await all_open.wait()
        seen.opened = time.monotonic() - seen.start
        await _drag(tab, chance, [])  # the warm-up
        await _scrub(tab, chance, [])
        await all_open.wait()
        end = time.monotonic() + seconds
        await asyncio.sleep(chance.uniform(0, seconds / 12))  # people are not in step
        while (now := time.monotonic()) < end + seconds / 2:
            alone = now < end
            for _ in range(2):
                await _drag(tab, chance, seen.answers if alone else seen.crowded)
            if chance.random() < 0.2:
                await _scrub(tab, chance, seen.moments if alone else seen.crowded)
            if chance.random() < 0.3:  # the exact score of what this page has in view
                await _exact(tab, seen, 60_000)
        # All end at the same cut: computed once, shown to all alike
        await tab.get_by_label("Sparsity", exact=False).first.fill("50")
        await tab.keyboard.press("Enter")
        await tab.wait_for_function(_SAME, polling=50, timeout=30_000)
        await _exact(tab, seen, 120_000)
    except Exception as error:
        await all_open.abort()
        said = await tab.locator("text=/blocks are kept at/").all_inner_texts()
        seen.errors.append(f"page {number}: {type(error).__name__}: {str(error)[:200]} {tab.url} {said}")
    finally:
        await context.close()


async def _drag(tab, chance: random.Random, seconds: list[float]) -> None:
    await tab.locator("canvas.histogram").evaluate("(canvas) => canvas.scrollIntoView({ block: 'center' })")
    box = await tab.locator("canvas.histogram").bounding_box()
    x = box["x"] + 60 + chance.random() * (box["width"] - 90)
    await tab.mouse.move(x, box["y"] + 50)
    await tab.mouse.down()
    for step in range(8):
        await tab.mouse.move(x + 12 * step * chance.choice((-1, 1)), box["y"] + 50)
    await tab.mouse.up()
    await _answered(tab, chance, seconds)


async def _scrub(tab, chance: random.Random, seconds: list[float]) -> None:
    """To another moment and back."""
    far = chance.randint(1, 4)
    for button in ("button.forward", "button.back"):
        for _ in range(far):
            await tab.locator(button).click()
        await _answered(tab, chance, seconds)


async def _answered(tab, chance: random.Random, seconds: list[float]) -> None:
    """The hand has let go: how long until the server's numbers stand there, then a person's pause."""
    start = time.monotonic()
    await tab.wait_for_function(_SAME, polling=20, timeout=30_000)
    seconds.append(time.monotonic() - start)
    await asyncio.sleep(chance.uniform(0.5, 2.0))


# The server has said what the map shows: it has drawn the last movement, and the caption under it names the same moment and sparsity
_SAME = """() => {
  if (!document.map?.isConnected)
    document.map = [...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.prunescope')).find(Boolean);
  const map = document.map;
  if (map?.view.dirty) return false;
  const shown = (part) => map?.querySelector(part)?.textContent;
  const words = `kept at ${shown('.when')}, sparsity ${shown('[data-number=sparsity] .value')}.`;
  return [...document.querySelectorAll('[data-testid=stCaptionContainer]')].some((e) => e.textContent.includes(words)); }"""


async def _exact(tab, seen: Seen, wait: float) -> None:
    said = tab.locator("text=/Exact dev accuracy .*examples/").first
    try:
        if await tab.locator("text=/before it/").count():
            seen.queued += 1
        await said.wait_for(timeout=wait)
        score = re.search(r"(0\.\d{4})", await said.inner_text())[1]
        cut = re.search(r"[?&]cut=([^&]*)", tab.url)
        seen.exact.setdefault(cut[1] if cut else "", set()).add(score)
    except Exception as error:
        seen.errors.append(f"no exact score: {type(error).__name__}: {str(error)[:120]}")


async def client(address: str, number: int, end: float, seen: Seen) -> None:
    """A plain websocket that has the page run again every two seconds, as many tabs do."""
    import websockets
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    url, chance = f"ws{address.removeprefix('http')}/_stcore/stream", random.Random(number)
    try:
        async with websockets.connect(url, subprotocols=["streamlit", "x"], origin=address, max_size=None, open_timeout=60) as socket:
            ask = BackMsg()
            ask.rerun_script.page_name, ask.rerun_script.query_string = "Explore", f"run={RUN}&cut=global@{chance.uniform(0.1, 0.8):.4f}"
            while time.monotonic() < end:
                start = time.monotonic()
                await socket.send(ask.SerializeToString())
                while True:
                    said = ForwardMsg()
                    said.ParseFromString(await asyncio.wait_for(socket.recv(), 60))
                    kind = said.WhichOneof("type")
                    if kind == "navigation":
                        ask.rerun_script.page_script_hash = said.navigation.page_script_hash
                    if kind == "delta" and said.delta.new_element.WhichOneof("type") == "exception":
                        seen.errors.append(f"client {number}: {said.delta.new_element.exception.message[:120]}")
                    if kind == "script_finished":
                        break
                seen.reruns.append(time.monotonic() - start)
                await asyncio.sleep(2)
    except Exception as error:
        seen.errors.append(f"client {number}: {type(error).__name__}: {str(error)[:120]}")


async def crowd(address: str, clients: int, seconds: float, seen: Seen, all_open: asyncio.Barrier) -> None:
    """The plain clients, which come when the pages have been used for these seconds, for half as long."""
    with contextlib.suppress(asyncio.BrokenBarrierError):
        await all_open.wait()
        await all_open.wait()
    await asyncio.sleep(seconds)
    end = time.monotonic() + seconds / 2
    await asyncio.gather(*(client(address, number, end, seen) for number in range(clients)))


async def watch(port: str, end: float, seen: Seen) -> None:
    """Memory of the server, twice a second."""
    mine = next(p for p in psutil.process_iter(["cmdline"]) if "streamlit" in (p.info["cmdline"] or []) and port in p.info["cmdline"])
    while time.monotonic() < end:
        seen.memory.append(mine.memory_info().rss / 1e6)
        await asyncio.sleep(0.5)


async def all_of(address: str, pages: int, clients: int, seconds: float, seen: Seen) -> None:
    from playwright.async_api import async_playwright

    async with async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        all_open = asyncio.Barrier(pages + 1)
        watching = asyncio.create_task(watch(address.rpartition(":")[2], time.monotonic() + 1200, seen))
        await asyncio.gather(*(page(browser, address, number, seconds, seen, all_open) for number in range(pages)),
                             crowd(address, clients, seconds, seen, all_open))
        watching.cancel()
        await browser.close()


# long: a row a figure
def rows(short: bool) -> Iterator[dict]:
    if CHROMIUM is None:
        yield {"what": "load", "figure": 0, "unit": "", "ok": True, "needed": "not tried: no chromium"}
        return
    pages, clients, seconds = (2, 6, 12) if short else (10, 30, 120)
    folder, seen = Path(tempfile.mkdtemp(prefix="prunescope-load-")), Seen()
    try:
        shutil.copytree(places.RECORDED / RUN, folder / RUN)
        if GLUE.is_dir():
            os.environ["PRUNESCOPE_DATA"] = str(GLUE)
        with served(folder) as address:
            seen.start = time.monotonic()
            asyncio.run(all_of(address, pages, clients, seconds, seen))
        yield {"what": f"{pages} pages for {seconds} s, with {clients} clients that rerun for {seconds / 2:.0f} s more: errors",
               "figure": len(seen.errors), "unit": "", "ok": not seen.errors, "needed": " | ".join(seen.errors[:4])}
        yield {"what": f"{pages} pages opened in one moment: the last one stands there, charts drawn, after", "figure": seen.opened, "unit": "s",
               "ok": seen.opened < 120}
        for what, seconds in (("releasing the threshold", seen.answers), ("stepping through the run", seen.moments)):
            slow = float(np.quantile(seconds or [0], 0.95))
            yield {"what": f"from {what} to the server's numbers, 95th percentile of {len(seconds)}", "figure": slow, "unit": "s",
                   "ok": short or slow <= ANSWER, "needed": f"at most {ANSWER:g} s; median {np.median(seconds or [0]):.2f} s"}
        yield {"what": f"the same while {clients} clients rerun the page, 95th percentile of {len(seen.crowded)}", "unit": "s", "ok": True,
               "figure": float(np.quantile(seen.crowded or [0], 0.95)), "needed": f"median {np.median(seen.crowded or [0]):.2f} s"}
        yield {"what": f"reruns of the page by plain clients, 95th percentile of {len(seen.reruns)}", "figure": float(np.quantile(seen.reruns or [99], 0.95)),
               "unit": "s", "ok": bool(seen.reruns)}
        warm = seen.memory[len(seen.memory) // 3:]
        grown = float(np.median(warm[-20:]) - np.median(warm[:20]))
        most = max(seen.memory)
        yield {"what": "memory of the server, most", "figure": most, "unit": "MB", "ok": most < MEMORY, "needed": f"below {MEMORY:g} MB"}
        yield {"what": "memory of the server, grown after the first third", "figure": grown, "unit": "MB", "ok": grown <= GROWS,
               "needed": f"at most {GROWS:g} MB"}
        mixed = [cut for cut, scores in seen.exact.items() if len(scores) > 1]
        if GLUE.is_dir():
            others = "".join(f"; {cut}: {sorted(seen.exact[cut])}" for cut in mixed)
            yield {"what": "cuts with an exact score, the same for every page that asked", "figure": len(seen.exact), "unit": "cuts",
                   "ok": bool(seen.exact) and not mixed, "needed": f"place in the queue shown {seen.queued} times{others}"}
            kept = len(list((folder / RUN / "scores").glob("*.json")))
            yield {"what": "exact scores that were computed and kept", "figure": kept, "unit": "", "ok": kept >= len(seen.exact),
                   "needed": "equal requests once: a file is named by weights, mask and data"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
