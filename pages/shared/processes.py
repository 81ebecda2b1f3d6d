"""Runs as processes of their own: started, watched, cancelled and resumed from outside. Imports no streamlit.

A run outlives the browser and the app. Its output goes to <runs dir>/.logs/NAME.log, and what was
started to NAME.json beside it, so that a restarted app can still tell a slow start from a failed one.
All of them run in the folder that the app was started in: a relative path means the same to it and to them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from prune_core import files
from prune_core.cutting.cuts import Cut
from prune_core.precision import formats
from prune_core.runs import places, shelf
from prune_core.runs.command_line import arguments
from prune_core.runs.config import PruneConfig
from prune_core.runs.places import RunError
from prune_core.runs.run import Run

ANSWER_SECONDS = 900


class Failed(RuntimeError):
    """A command that ended badly; the message is its own last line, one line."""


def start(config: PruneConfig, name: str, runs_dir: Path, *more: str) -> None:
    """Start a run, with `more` options that are no settings.

    Raises RunError for an unusable or taken name, OSError where the log cannot be written.
    """
    places.check_name(name)
    if shelf.free_name(name, runs_dir) != name:
        raise RunError(f"run {name!r} exists; resume it or choose another name, "
                       f"for example {shelf.free_name(name, runs_dir)}")
    launch([*arguments(config, name, runs_dir), *more], name, runs_dir)


def resume(name: str, runs_dir: Path) -> None:
    """Take up an interrupted run again. Raises OSError where the log cannot be written."""
    launch(["resume", places.check_name(name), f"--runs-dir={runs_dir}", "--json"], name, runs_dir, "ab")


def launch(args: Sequence[str], name: str, runs_dir: Path, mode: str = "wb") -> None:
    """Start a command as a process that outlives the app, known by `name`. Raises OSError where no log can be written.
    """
    log = log_file(name, runs_dir)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, mode) as out:
        process = subprocess.Popen([sys.executable, "-m", "prune_core", *args], stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=out, start_new_session=True)
    created = psutil.Process(process.pid).create_time()
    threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie behind
    files.write_whole(log.with_suffix(".json"), json.dumps({"pid": process.pid, "created": created}).encode())


def log_file(name: str, runs_dir: Path) -> Path:
    """Where a run started by the app writes what it says."""
    return Path(runs_dir) / ".logs" / f"{places.check_name(name)}.log"


def launched(name: str, runs_dir: Path) -> bool:
    """Whether the app ever started a run of this name."""
    return log_file(name, runs_dir).exists()


def starting(name: str, runs_dir: Path) -> psutil.Process | None:
    """The process that the app started last for this run, while it lives."""
    try:
        said = json.loads(log_file(name, runs_dir).with_suffix(".json").read_bytes())
        process = psutil.Process(said["pid"])
        same = abs(process.create_time() - said["created"]) < 1  # a pid is used again, with another birth
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, psutil.Error):
        return None


def writer(run: Run) -> psutil.Process | None:
    """The process that writes this run, if its status file's pid is still that process and no other."""
    try:
        process = psutil.Process(run.now["pid"])
        args = process.cmdline()
        at = next(at for at, arg in enumerate(args)
                  if Path(arg).name == "prunescope" or (at and args[at - 1:at + 1] == ["-m", "prune_core"]))
        named = (run.name in args or f"--run={run.name}" in args
                 or not any(arg.startswith("--run") and arg[5:6] in ("", "=") for arg in args))
        ours = args[at + 1] in ("prune", "resume") and named
        # The clock may have jumped back; the lock has not
        mine = process.create_time() <= run.now["updated"] or run.status == "running"
        return process if ours and mine else None
    except (KeyError, ValueError, IndexError, StopIteration, psutil.Error):
        return None


def cancel(name: str, runs_dir: Path) -> bool:
    """Ask the process behind this run to stop (SIGTERM); it can be resumed. False where there is none."""
    try:
        process = writer(shelf.find(name, runs_dir)) or starting(name, runs_dir)
    except RunError:  # no folder yet
        process = starting(name, runs_dir)
    if process is None:
        return False
    try:
        process.terminate()
    except psutil.Error:
        return False
    return True


def last_line(name: str, runs_dir: Path) -> str:
    """The last thing the run's process said, '' if nothing; of a progress line rewritten in place, its last state."""
    try:
        with open(log_file(name, runs_dir), "rb") as log:
            log.seek(max(0, log.seek(0, 2) - 4000))
            lines = log.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def download(name: str, runs_dir: Path) -> tuple[float, str] | None:
    """(share, in words) of what the run's process downloads, if that is the last thing it said."""
    said = re.fullmatch(r"(downloading .+?) +(\d+)%\|.*\| (.+)", last_line(name, runs_dir))
    return (min(1.0, int(said[2]) / 100), f"{said[1]}: {said[2]}%, {said[3]}") if said else None


def error_line(name: str, runs_dir: Path) -> str:
    """The error that the run's process ended with, '' if it did not end with one."""
    line = last_line(name, runs_dir)
    return line.removeprefix("error:").strip() if line.startswith("error:") else ""


def failure(name: str, runs_dir: Path) -> str:
    """Why the command that was started last under this name failed, in one line; '' where it ended well or never ran.

    Commands that end well print JSON as their last line.
    """
    if not launched(name, runs_dir) or starting(name, runs_dir):
        return ""
    last = last_line(name, runs_dir)
    if last.endswith("}") and not last.startswith("error:"):
        return ""
    return error_line(name, runs_dir) or f"It ended before it was done. {last}".strip()


def answer(name: str, runs_dir: Path) -> dict | None:
    """The JSON that the command which was started last under this name ended with; None where it gave none."""
    try:
        last = log_file(name, runs_dir).read_bytes().decode(errors="replace").strip().splitlines()[-1]
        said = json.loads(last)
    except (OSError, ValueError, IndexError):
        return None
    return said if isinstance(said, dict) else None


def forget(name: str, runs_dir: Path) -> None:
    """Take away what was said under this name, as after a command that was cancelled."""
    for path in (log_file(name, runs_dir), log_file(name, runs_dir).with_suffix(".json")):
        path.unlink(missing_ok=True)


def measure(arguments: Sequence[str]) -> dict:
    """What `python -m prune_core measure` gives for these arguments. Raises Failed."""
    return _answer(list(arguments))


def export(name: str, runs_dir: Path, to: str, out: Path, stage: str, cut: Cut, data: str, dtype: str) -> dict:
    """The pruned model as `python -m prune_core export` writes it. Raises Failed."""
    return _answer(["export", name, str(out), f"--runs-dir={runs_dir}", f"--to={to}", f"--phase={stage}",
                    f"--scope={cut.scope}", f"--threshold={json.dumps(dict(cut.thresholds))}", f"--by={cut.ranking}",
                    f"--dtype={dtype}", *formats.as_options(cut.formats), *(["--repair"] if cut.repaired else []),
                    *([f"--data={data}"] if data else [])])


class Report:
    """A report that is being made, in all its forms: iterated, (done, total, what comes now).

    Then `html`, `markdown`, `slides`, `pptx` and what was `told` are there. Who stops iterating ends the process.
    Raises Failed.
    """

    def __init__(self, runs_dir: Path, name: str, settings: str, title: str, audience: str, words: str, allow: float,
                 data: str, measure: bool, dtype: str, price: str = ""):
        """`name`: the run that these `settings` are of; without any, the task whose runs are all reported on."""
        of = ["export", name, f"--settings={settings}"] if settings else ["report", f"--task={name}"]
        self.args = [*of, f"--runs-dir={runs_dir}", "--to=all", f"--title={title}", f"--audience={audience}",
                     f"--words={words}", f"--allow={allow}", *([f"--data={data}"] if data else []),
                     "--measure" if measure else "--no-measure", f"--dtype={dtype}", f"--price={price}", "--json"]

    def __iter__(self) -> Iterator[tuple[int, int, str]]:
        with tempfile.TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True) as folder:
            out = Path(folder) / "report"
            process = subprocess.Popen([sys.executable, "-m", "prune_core", *self.args, str(out)],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True, errors="replace")
            try:
                last = ""
                for line in process.stderr:
                    last = line.strip() or last
                    if step := re.fullmatch(r"(\d+)/(\d+) (.*)", line.strip()):
                        yield int(step[1]), int(step[2]), step[3]
                told = process.stdout.read()
                if process.wait() != 0:
                    raise Failed(last.removeprefix("error:").strip() or f"it ended with code {process.returncode}")
                self.told = json.loads(told.strip().splitlines()[-1])
                self.html, self.markdown, self.slides = (
                    out.with_name(name).read_text(encoding="utf-8")
                    for name in ("report.html", "report.md", "report-slides.html"))
                self.pptx = out.with_suffix(".pptx").read_bytes()
            finally:
                process.kill()
                process.wait()


def predict(name: str, runs_dir: Path, *sentences: str) -> dict:
    """What the run's dense model says of each sentence as more and more is cut. Raises Failed."""
    return _answer(["predict", name, f"--runs-dir={runs_dir}", "--phase=dense", "--each", "--", *sentences])


def flips(name: str, runs_dir: Path, data: str) -> dict:
    """Which dev sentences the run's dense model answers wrongly first, as more and more is cut. Raises Failed."""
    return _answer(["flips", name, f"--runs-dir={runs_dir}", *([f"--data={data}"] if data else [])])


def shapes() -> dict:
    """The same share of zeros in different patterns, timed here. Raises Failed."""
    return _answer(["shapes"])


def _answer(args: list[str]) -> dict:
    """What a command prints with --json. Raises Failed."""
    try:
        done = subprocess.run([sys.executable, "-m", "prune_core", args[0], "--json", *args[1:]],
                              stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True, errors="replace",
                              timeout=ANSWER_SECONDS)
        if done.returncode == 0:
            return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise Failed(f"no answer within {ANSWER_SECONDS} seconds") from None
    except (ValueError, IndexError):
        raise Failed(f"{args[0]} gave no answer") from None
    said = [line for line in done.stderr.splitlines() if line.strip()]
    said = said or [f"{args[0]} ended with code {done.returncode}"]
    raise Failed(said[-1].removeprefix("error:").strip())
