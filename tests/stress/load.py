"""Load: ten real pages that drag, scrub and wait for exact scores beside the server on two cores.

Then thirty clients join that rerun the page. Times are told in both forms and judged in the long one alone, which wants
the machine for itself; whatever does not come within PATIENCE is an error in both.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tiny
from browsing import CHROMIUM, QUIET, ROOT, served, serving

from prune_core.runs import places

GLUE = ROOT.parent / "shared" / "glue"
RUN = "sst2-minilm-64x1"  # the recorded run with weights
ANSWER, OPENED = 1.0, 120.0  # seconds: at the 95th percentile; until all pages stand there
MEMORY, GROWS = 3000.0, 150.0  # MB: at most; more after the warm-up
PATIENCE = 300.0  # seconds after which what was waited for is taken for lost


class Seen:
    """What all clients found."""

    def __init__(self) -> None:
        self.answers: list[float] = []  # seconds from release of the threshold to the server's numbers
        self.steps: list[float] = []  # seconds from the last of some steps through the run to the server's numbers
        self.crowded: list[float] = []  # both, while plain clients rerun the page
        self.reruns: list[float] = []
        self.errors: list[str] = []
        self.exact: dict[str, set[str]] = {}  # cut -> the exact scores that pages were shown for it
        self.queued = 0  # times that a page said how many are before it
        self.memory: list[float] = []
        self.start = time.monotonic()
        self.opened = 999.0  # seconds until all pages, opened at once, had all their charts

    def wrong(self, what: str) -> None:
        """Told at once, as it may be long until the end."""
        print(f"{time.monotonic() - self.start:.0f} s: {what}", file=sys.stderr, flush=True)
        self.errors.append(what)


async def page(browser, address: str, number: int, seconds: float, seen: Seen, all_open: asyncio.Barrier) -> None:
    """One person: drags, scrubs, lets the exact score come now and then. Every number on it must be of its own cut."""
    chance, context = random.Random(number), await browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    tab = await context.new_page()
    tab.on("pageerror", lambda error: seen.wrong(f"page {number}: {error}"))
    try:
        await tab.goto(f"{address}/Explore?run={RUN}&at=dense")
        await tab.wait_for_selector("text=blocks are kept")
        await tab.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2", polling=250)
        await all_open.wait()
        seen.opened = time.monotonic() - seen.start
        await _drag(tab, chance, [])  # the warm-up
        await _scrub(tab, chance, [])
        await all_open.wait()
        await asyncio.sleep(chance.uniform(0, seconds / 12))  # people are not in step
        await _use(tab, chance, seen, seconds, (seen.answers, seen.steps))
        await all_open.wait()  # the plain clients join
        await _use(tab, chance, seen, seconds / 2, (seen.crowded, seen.crowded))
        await all_open.wait()  # and go
        # All end at the same cut: computed once, shown to all alike
        await tab.get_by_label("Sparsity", exact=False).first.fill("50")
        await tab.keyboard.press("Enter")
        await tab.wait_for_function(_SAME, polling=50)
        await _exact(tab, seen)
    except asyncio.BrokenBarrierError:
        pass  # another page failed, and says how
    except Exception as error:
        await all_open.abort()
        seen.wrong(f"page {number}: {type(error).__name__}: {str(error)[:300]}; {await _standing(tab)}")
    finally:
        await context.close()


async def _use(tab, chance: random.Random, seen: Seen, seconds: float, times: tuple[list[float], list[float]]) -> None:
    """For these seconds, and at least twice: drags, now and then steps through the run, or waits for an exact score."""
    end = time.monotonic() + seconds
    for number in itertools.count():
        if number > 1 and time.monotonic() > end:
            return
        for _ in range(2):
            await _drag(tab, chance, times[0])
        if number == 0 or chance.random() < 0.2:
            await _scrub(tab, chance, times[1])
        if number == 1 or chance.random() < 0.3:
            await _exact(tab, seen)


async def _standing(tab) -> str:
    """Where this page is, and what stands on it."""
    try:
        async with asyncio.timeout(30):
            parts = [await tab.locator(part).all_inner_texts() for part in _PARTS]
        shown = [f"{part} {texts}" for part, texts in zip(_PARTS, parts, strict=False) if texts]
        return f"{tab.url} shows " + ", ".join(shown)
    except Exception as error:
        return f"{tab.url} cannot be read: {type(error).__name__}"


_PARTS = ("[data-testid=stException]", "[data-testid=stAlert]", "[data-testid=stConnectionStatus]",
          "[data-testid=stStatusWidget]",
          ".when", "[data-number=sparsity] .value", "text=/blocks are kept at/", "text=/Exact dev/", "text=/before it/")


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
    """To another snapshot and back."""
    far = chance.randint(1, 4)
    for button in ("button.forward", "button.back"):
        for _ in range(far):
            await tab.locator(button).click()
        await _answered(tab, chance, seconds)


async def _answered(tab, chance: random.Random, seconds: list[float]) -> None:
    """The hand has let go: how long until the server's numbers stand there, then a person's pause."""
    start = time.monotonic()
    await tab.wait_for_function(_SAME, polling=20)
    seconds.append(time.monotonic() - start)
    await asyncio.sleep(chance.uniform(0.5, 2.0))


# The server has said what the map shows: it has drawn the last movement, and the caption under it names the same
# snapshot and sparsity
_SAME = """() => {
  if (!document.map?.isConnected)
    document.map = [...document.querySelectorAll('*')]
      .map((e) => e.shadowRoot?.querySelector('.prunescope')).find(Boolean);
  const map = document.map;
  if (map?.view.dirty) return false;
  const shown = (part) => map?.querySelector(part)?.textContent;
  const words = `kept at ${shown('.when')}, sparsity ${shown('[data-number=sparsity] .value')}.`;
  const captions = [...document.querySelectorAll('[data-testid=stCaptionContainer]')];
  return captions.some((e) => e.textContent.includes(words)); }"""


async def _exact(tab, seen: Seen) -> None:
    """Wait for the exact score. What scores gives way to all else and may take very long: as long as it gets on."""
    said = tab.locator("text=/Exact dev accuracy .*examples/").first
    try:
        seen.queued += bool(await tab.locator("text=/before it/").count())
        for _ in range(10):
            before = _worked(tab.url)
            with contextlib.suppress(TimeoutError):
                await said.wait_for()
                break
            if _worked(tab.url) - before < 1.0:
                raise TimeoutError(f"what scores has done nothing in {PATIENCE:.0f} s")
        score = re.search(r"accuracy (\d\.\d{4})", await said.inner_text())[1]
        cut = re.search(r"[?&]cut=([^&]*)", tab.url)
        seen.exact.setdefault(cut[1] if cut else "", set()).add(score)
    except Exception as error:
        seen.wrong(f"no exact score: {type(error).__name__}: {str(error)[:300]}; {await _standing(tab)}")


def _worked(address: str) -> float:
    """Seconds that the processes under the server have computed."""
    times = [child.cpu_times() for child in serving(re.match(r"\w+://[^/]+", address)[0]).children()]
    return sum(one.user + one.system for one in times)


async def client(address: str, number: int, over: asyncio.Event, seen: Seen) -> None:
    """A plain websocket that has the page run again every two seconds, as many tabs do; at least once."""
    import websockets
    from streamlit.proto.BackMsg_pb2 import BackMsg

    url, chance = f"ws{address.removeprefix('http')}/_stcore/stream", random.Random(number)
    ask = BackMsg()
    ask.rerun_script.page_name = "Explore"
    ask.rerun_script.query_string = f"run={RUN}&cut=global@{chance.uniform(0.1, 0.8):.4f}"
    try:
        async with websockets.connect(url, subprotocols=["streamlit", "x"], origin=address, max_size=None,
                                      open_timeout=PATIENCE, ping_timeout=PATIENCE) as socket:
            while not over.is_set():
                start = time.monotonic()
                async with asyncio.timeout(PATIENCE):
                    await socket.send(ask.SerializeToString())
                    while (said := await _said(socket)).WhichOneof("type") != "script_finished":
                        if said.WhichOneof("type") == "navigation":
                            ask.rerun_script.page_script_hash = said.navigation.page_script_hash
                        new = said.delta.new_element if said.WhichOneof("type") == "delta" else None
                        if new is not None and new.WhichOneof("type") == "exception":
                            seen.wrong(f"client {number}: the page said {new.exception.message}")
                seen.reruns.append(time.monotonic() - start)
                await asyncio.sleep(2)
    except Exception as error:
        seen.wrong(f"client {number}, after {len(seen.reruns)} reruns of all: "
                   f"{type(error).__name__}: {str(error)[:300]}")


async def _said(socket):
    """The server's next message."""
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    said = ForwardMsg()
    said.ParseFromString(await socket.recv())
    return said


async def crowd(address: str, clients: int, seen: Seen, all_open: asyncio.Barrier) -> None:
    """The plain clients, which come when the pages have been used for a while, and go before their end."""
    over, joined = asyncio.Event(), []
    with contextlib.suppress(asyncio.BrokenBarrierError):
        for _ in ("all are open", "all are warm", "all have been used alone"):
            await all_open.wait()
        joined = [asyncio.create_task(client(address, number, over, seen)) for number in range(clients)]
        await all_open.wait()
    over.set()
    await asyncio.gather(*joined)


async def watch(address: str, end: float, seen: Seen) -> None:
    """Memory of the server, twice a second."""
    mine = serving(address)
    while time.monotonic() < end:
        seen.memory.append(mine.memory_info().rss / 1e6)
        await asyncio.sleep(0.5)


async def all_of(address: str, pages: int, clients: int, seconds: float, seen: Seen) -> None:
    from playwright.async_api import async_playwright

    async with async_playwright() as started:
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        all_open = asyncio.Barrier(pages + 1)
        watching = asyncio.create_task(watch(address, time.monotonic() + 1200, seen))
        await asyncio.gather(*(page(browser, address, number, seconds, seen, all_open) for number in range(pages)),
                             crowd(address, clients, seen, all_open))
        watching.cancel()
        await browser.close()


# long: a row a figure
def rows(short: bool) -> Iterator[dict]:
    if CHROMIUM is None:
        yield {"what": "load", "figure": 0, "unit": "", "ok": True, "needed": "not tried: no chromium"}
        return
    pages, clients, seconds = (2, 6, 4) if short else (10, 30, 120)
    folder, seen = Path(tempfile.mkdtemp(prefix="prunescope-load-")), Seen()
    try:
        shutil.copytree(places.RECORDED / RUN, folder / RUN)
        if GLUE.is_dir():
            os.environ["PRUNESCOPE_DATA"] = str(some(folder / ".data") if short else GLUE)
        with served(folder) as address:
            seen.start = time.monotonic()
            asyncio.run(all_of(address, pages, clients, seconds, seen))
        yield {"what": f"{pages} pages for {seconds} s, "
                       f"with {clients} clients that rerun for {seconds / 2:.0f} s more: errors",
               "figure": len(seen.errors), "unit": "", "ok": not seen.errors, "needed": " | ".join(seen.errors)}
        yield from answered(seen, pages, clients, short)
        yield from remembered(seen)
        if GLUE.is_dir():
            yield from scored(seen, len(list((folder / RUN / "scores").glob("*.json"))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def some(folder: Path, examples: int = 64) -> Path:
    """A folder with the first examples of SST-2."""
    for split in ("train", "validation"):
        table = pq.read_table(next((GLUE / "sst2").glob(f"{split}-*.parquet")))
        tiny.write_split(folder, "sst2", split, table.slice(0, examples).to_pydict())
    tiny.write_readme(folder, {"sst2": ("train", "validation")})
    return folder


def answered(seen: Seen, pages: int, clients: int, short: bool) -> Iterator[dict]:
    """What was timed; in the short form only that it came at all."""
    def timed(what: str, seconds: list[float], most: float | None = None) -> dict:
        slow = float(np.quantile(seconds or [999.0], 0.95))
        aim = f"at most {most:g} s; " if most else ""
        return {"what": f"{what}, 95th percentile of {len(seconds)}", "figure": slow, "unit": "s",
                "ok": bool(seconds) and (short or most is None or slow <= most),
                "needed": f"{aim}median {np.median(seconds or [999.0]):.2f} s"}

    yield {"what": f"{pages} pages opened in one moment: the last one stands there, charts drawn, after",
           "figure": seen.opened, "unit": "s", "ok": short or seen.opened < OPENED, "needed": f"below {OPENED:g} s"}
    yield timed("from releasing the threshold to the server's numbers", seen.answers, ANSWER)
    yield timed("from stepping through the run to the server's numbers", seen.steps, ANSWER)
    yield timed(f"the same while {clients} clients rerun the page", seen.crowded)
    yield timed("reruns of the page by plain clients", seen.reruns)


def remembered(seen: Seen) -> Iterator[dict]:
    """What the server needed of memory."""
    warm = seen.memory[len(seen.memory) // 3:]
    grown, most = float(np.median(warm[-20:]) - np.median(warm[:20])), max(seen.memory)
    yield {"what": "memory of the server, most", "figure": most, "unit": "MB", "ok": most < MEMORY,
           "needed": f"below {MEMORY:g} MB"}
    yield {"what": "memory of the server, grown after the first third", "figure": grown, "unit": "MB",
           "ok": grown <= GROWS, "needed": f"at most {GROWS:g} MB"}


def scored(seen: Seen, kept: int) -> Iterator[dict]:
    """Exact scores: one for a cut, whoever asks, and computed once."""
    mixed = [f"; {cut}: {sorted(scores)}" for cut, scores in seen.exact.items() if len(scores) > 1]
    yield {"what": "cuts with an exact score, the same for every page that asked",
           "figure": len(seen.exact), "unit": "cuts", "ok": bool(seen.exact) and not mixed,
           "needed": f"place in the queue shown {seen.queued} times{''.join(mixed)}"}
    yield {"what": "exact scores that were computed and kept", "figure": kept, "unit": "",
           "ok": kept >= len(seen.exact), "needed": "equal requests once: a file is named by weights, mask and data"}
