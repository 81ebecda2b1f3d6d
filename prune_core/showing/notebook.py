"""An exploration as a notebook: the run, the snapshots and cuts in view, and code that counts them again."""

from __future__ import annotations

import json
import pprint
from collections.abc import Sequence
from pathlib import Path

from prune_core import InputError, __version__, files
from prune_core.runs import places
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting
from prune_core.tasks.metrics import in_words

# ---------------------------------------------------------------- its cells

_HEAD = """\
# {title}

{about}

Made by Prunescope {version} from what was in view. Start it with Prunescope's environment, in any folder. The first \
cells need no weights and no data."""

_SETTINGS = """\
from pathlib import Path

import pandas as pd

from prune_core import show
from prune_core.cutting.cuts import Cut
from prune_core.runs import shelf
from prune_core.runs.settings import Setting

run = {find}
asked = {asked}
settings = [Setting(name, one["at"], Cut(**one["cut"])) for name, one in asked.items()]"""

_LIVE = """\
## The map, at the cut that was in view

It is alive while a kernel runs: drag the handle, and `view.cut`, `view.sparsity`, `view.mask` and `view.score` \
follow; set `view.cut`, and the handle moves. `view.exact()` takes the exact score. Where nothing runs, a still \
picture stands here."""

_MAP = """\
view = show(run, run.snapshots[settings[0].at].label, settings[0].cut)"""

_SIZES = """\
## Size and predicted score

Sparsity and compression are counted from the recorded block norms. The predicted score is read off the score surface \
that was recorded with the run: dev scores at twenty sparsities, with straight lines between them."""

_TABLE = """\
table = pd.DataFrame({setting.name: setting.numbers(run) for setting in settings}).T
table"""

_SHOWN = """\
import json

# What was shown when this notebook was made
shown = pd.DataFrame(json.loads({shown!r})).T
pd.testing.assert_frame_equal(table.astype(float), shown.astype(float), rtol=1e-9)
print("the same numbers as shown")"""

_STORED = """\
## Bytes

What a packed file takes: values, index, scales and all that stays in fp32; `encoder_` is of the prunable matrices \
alone. Papers often leave the index out, and count the encoder: ask of each number what it counts."""

_BYTES = """\
stored = pd.DataFrame({setting.name: setting.storage(run).to_json() for setting in settings}).T
stored"""

_BYTES_SHOWN = """\
shown = pd.DataFrame(json.loads({shown!r})).T
pd.testing.assert_frame_equal(stored, shown)
print("the same bytes as shown")"""

_MATRICES = """\
shares = {}
for setting in settings:
    mask = setting.mask(run)
    shares[setting.name] = {matrix.name: mask.matrix_sparsity(matrix.name) for matrix in run.layout.matrices}
pd.DataFrame(shares).round(3)"""

_WEIGHTS = """\
## The exact dev {metric}

Needs the weights of the stage (they ship for one recorded run; your own runs have them) and the task's data: where \
the run had it, or a folder in the layout of `nyu-mll/glue`."""

_EXACT = """\
import os

from prune_core import InputError
from prune_core.evaluation.exact import evaluate

DATA = os.environ.get("PRUNESCOPE_DATA")  # or the folder itself; None: where the run had its data

exact = {}
for setting in settings:
    stage = run.snapshots[setting.at].saved
    try:
        if stage is None:
            raise InputError("weights are kept for stages only, not for this snapshot")
        answer = evaluate(run, stage, setting.cut, DATA)
        exact[setting.name] = {name: answer[name] for name in ("score", "low", "high", "examples")}
    except InputError as error:
        print(f"{setting.name}: not scored: {error}")
pd.DataFrame(exact).T"""

_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


# ---------------------------------------------------------------- the whole


def exploration(run: Run, settings: Sequence[Setting]) -> str:
    """The notebook's JSON. Its numbers are counted here, and again when it is executed, and compared there.

    Raises InputError.
    """
    from nbformat import v4, writes

    shown = {setting.name: setting.numbers(run) for setting in settings}
    bytes_ = {setting.name: setting.storage(run).to_json() for setting in settings}
    head = _HEAD.format(title=f"{run.name}: {', '.join(shown)}", about=_about(run), version=__version__)
    asked = pprint.pformat({setting.name: _said(setting) for setting in settings}, width=120, sort_dicts=False)
    cells = [
        v4.new_markdown_cell(head),
        v4.new_code_cell(_SETTINGS.format(find=_find(run), asked=asked)),
        v4.new_markdown_cell(_LIVE),
        v4.new_code_cell(_MAP),
        v4.new_markdown_cell(_SIZES),
        v4.new_code_cell(_TABLE),
        v4.new_code_cell(_SHOWN.format(shown=json.dumps(shown))),
        v4.new_markdown_cell(_STORED),
        v4.new_code_cell(_BYTES),
        v4.new_code_cell(_BYTES_SHOWN.format(shown=json.dumps(bytes_))),
        v4.new_markdown_cell("## What is cut of each matrix"),
        v4.new_code_cell(_MATRICES),
        v4.new_markdown_cell(_WEIGHTS.format(metric=in_words(run.metric))),
        v4.new_code_cell(_EXACT),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same notebook for the same view
    return writes(v4.new_notebook(cells=cells, metadata={"kernelspec": _KERNEL}))


def _said(setting: Setting) -> dict:
    """A setting as the notebook's code takes it."""
    cut = setting.cut
    return {"at": setting.at, "cut": {**cut.to_json(), "ranking": cut.ranking, "repaired": cut.repaired}}


def _find(run: Run) -> str:
    """The expression that finds the run again."""
    if run.recorded or run.path.parent == places.RUNS:
        return f"shelf.find({run.name!r})"
    return f"shelf.find({run.name!r}, Path({str(run.path.parent)!r}))"


def _about(run: Run) -> str:
    """What was run, in a line or two."""
    data = ("the practice set, which is synthetic and not GLUE" if run.is_practice
            else f"your own data {run.task}" if run.is_own else f"GLUE {run.task}")
    dense = "" if run.dense_score is None else f" Dense dev {run.metric.replace('_', ' ')} {run.dense_score:.4f};"
    return (f"{run.config.model} on {data}, blocks of {run.layout.block}.{dense} always giving the most frequent "
            f"answer scores {run.majority_score:.4f}. The run was made with `{run.command()}`.")


def write(run: Run, settings: Sequence[Setting], path: Path) -> dict:
    """Write the notebook into a new file. Raises InputError."""
    path = Path(path)
    if path.exists():
        raise InputError(f"{str(path)!r} is there already; needed: a new file")
    content = exploration(run, settings).encode()
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise InputError(f"the notebook cannot be written to {str(path)!r}: {error.strerror or error}") from None
    return {"to": "notebook", "path": str(path), "bytes": len(content)} | settings[0].numbers(run)
