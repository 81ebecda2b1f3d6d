"""How commands say what they do: progress on stderr, the result as text or as one JSON object on stdout."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator


def tell(result: dict, as_json: bool, text: Callable[[dict], str]) -> None:
    """Print a result as JSON, or as `text` puts it for people."""
    print(json.dumps(_finite(result), allow_nan=False) if as_json else text(result), flush=True)


def _finite(value):
    """JSON has no infinity: where nothing is kept, the encoder's compression is null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say_taken(choice) -> None:
    """That another arithmetic runs than was asked for (a paths.Choice), on stderr."""
    from prune_core.evaluation import arithmetic

    if line := arithmetic.note(choice):
        print(f"note: {line}", file=sys.stderr, flush=True)


def scored(steps: Iterable[tuple]) -> Iterator[tuple]:
    """(done, total, ...) as they come, with a bar and the time left on stderr."""
    from tqdm import tqdm

    layout = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} scores, {remaining} left"
    with contextlib.ExitStack() as closing:  # no bar before what may be refused
        bar = None
        for step in steps:
            bar = bar or closing.enter_context(tqdm(total=step[1], bar_format=layout, mininterval=0.5))
            bar.update(step[0] - bar.n)
            yield step


class Progress:
    """What a run reports to: a bar with the time left on stderr; at most two updates a second."""

    def __enter__(self):
        self._bar, self._last = None, 0.0
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event, pruning) -> None:
        from tqdm import tqdm

        if self._bar is None:
            layout = "{percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} steps {desc}"
            self._bar = tqdm(total=pruning.plan.steps, bar_format=layout)
        if time.monotonic() - self._last < 0.5:
            return
        self._last = time.monotonic()
        left = pruning.seconds_left()
        doing = getattr(event, "doing", "training")
        self._bar.n = pruning.steps_done
        self._bar.set_description_str(f"{event.phase}: {doing}, {clock(left)} left", refresh=True)


def clock(seconds: float | None) -> str:
    """'1 min 05 s', '40 s'; '?' where it is not known."""
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
