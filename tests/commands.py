"""`python -m prune_core ...` in a process of its own, forked from one that has imported all it needs (6 s saved each).

Exit code, stdout and stderr are those of the real process. That a fresh Python can run the module as well is tested in
test_command_line.py.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0  # seconds
WRITE = os.O_WRONLY | os.O_CREAT
WARM = ["pytest", "torch", "torch._dynamo", "datasets", "scipy.stats", "sklearn.metrics", "prune_core.__main__",
        "prune_core.record", "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert"]
context = multiprocessing.get_context("forkserver")  # for whoever else needs processes that begin warm
context.set_forkserver_preload(WARM)


def prune_core(*arguments: object, keys: str = "", first: str = "") -> subprocess.CompletedProcess:
    """As subprocess.run does, with text; `keys` is typed in, `first` is Python that is executed before.

    Raises TimeoutExpired.
    """
    words = [*map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").write_text(keys)
        process = context.Process(target=_main, args=(words, dict(os.environ), folder, first))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, PATIENCE)
        out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _main(words: list[str], env: dict[str, str], folder: str, first: str) -> None:
    """In the child: standard streams are files, the rest is as in a fresh process."""
    for number, (name, flags) in enumerate((("in", os.O_RDONLY), ("out", WRITE), ("err", WRITE))):
        os.dup2(os.open(f"{folder}/{name}", flags), number)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = ["prune_core", *words]
    code = 1
    try:
        exec(first, {})
        from prune_core.__main__ import main

        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
