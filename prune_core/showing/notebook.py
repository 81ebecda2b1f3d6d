"""An exploration as a notebook: the run, the moment and the cuts that were looked at, and code that counts the same numbers again."""

from __future__ import annotations

import json
import pprint
from collections.abc import Sequence
from pathlib import Path

from prune_core import InputError, __version__, files
from prune_core.runs.places import RUNS
from prune_core.runs.run import Run
from prune_core.runs.settings import Setting


def exploration(run: Run, settings: Sequence[Setting]) -> str:
    """The notebook's JSON. Its numbers are counted here and again when it is executed, and compared there. Raises InputError."""
    from nbformat import v4, writes

    shown = {one.name: one.numbers(run) for one in settings}
    asked = {one.name: {"at": one.at, "cut": {"ranking": one.cut.ranking, "repaired": one.cut.repaired, **one.cut.to_json()}}
             for one in settings}
    usual = run.recorded or run.path.parent == RUNS
    find = f"shelf.find({run.name!r})" if usual else f"shelf.find({run.name!r}, Path({str(run.path.parent)!r}))"
    metric = run.metric.replace("_", " ")
    cells = [
        v4.new_markdown_cell(f"# {run.name}: {', '.join(shown)}\n\n{_about(run)}\n\nMade by Prunescope {__version__} from what was in view. Start it "
                             "with Prunescope's environment, in any folder. The first cells need no weights and no data."),
        v4.new_code_cell("from pathlib import Path\n\nimport pandas as pd\n\n"
                         f"from prune_core.cutting.cuts import Cut\nfrom prune_core.runs import shelf\n"
                         f"from prune_core.runs.settings import Setting\n\nrun = {find}\n"
                         f"asked = {pprint.pformat(asked, width=120, sort_dicts=False)}\n"
                         "settings = [Setting(name, one[\"at\"], Cut(**one[\"cut\"])) for name, one in asked.items()]"),
        v4.new_markdown_cell("## Size and predicted score\n\nSparsity and compression are counted from the recorded block norms. The predicted score is "
                             "read off the score surface that was recorded with the run: dev scores at twenty sparsities, with straight lines between them."),
        v4.new_code_cell("table = pd.DataFrame({one.name: one.numbers(run) for one in settings}).T\ntable"),
        v4.new_code_cell(f"import json\n\n# What was shown when this notebook was made\nshown = pd.DataFrame(json.loads({json.dumps(shown)!r})).T\n"
                         "pd.testing.assert_frame_equal(table.astype(float), shown.astype(float), rtol=1e-9)\nprint(\"the same numbers as shown\")"),
        v4.new_markdown_cell("## What is cut of each matrix"),
        v4.new_code_cell("pd.DataFrame({one.name: {m.name: one.mask(run).matrix_sparsity(m.name) for m in run.layout.matrices} for one in settings}).round(3)"),
        v4.new_markdown_cell(f"## The exact dev {metric}\n\nNeeds the weights of the moment (they ship for one recorded run; your own runs have them) and the "
                             "task's data: where the run had it, or a folder in the layout of `nyu-mll/glue`."),
        v4.new_code_cell(_EXACT),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same notebook for the same view
    made = v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    return writes(made)


_EXACT = '''\
from prune_core import InputError
from prune_core.evaluation.exact import evaluate

DATA = None  # for example "../shared/glue"

exact = {}
for one in settings:
    saved = run.snapshots[one.at].saved
    try:
        if saved is None:
            raise InputError("weights are kept at the ends of phases only, not at this moment")
        answer = evaluate(run, saved, one.cut, DATA)
        exact[one.name] = {name: answer[name] for name in ("score", "low", "high", "examples")}
    except InputError as error:
        print(f"{one.name}: not scored: {error}")
pd.DataFrame(exact).T'''


def _about(run: Run) -> str:
    """What was run, in a line or two."""
    data = "the practice set, which is synthetic and not GLUE" if run.is_practice else f"your own data {run.task}" if run.is_own else f"GLUE {run.task}"
    dense = "" if run.dense_score is None else f" Dense dev {run.metric.replace('_', ' ')} {run.dense_score:.4f};"
    return (f"{run.config.model} on {data}, blocks of {run.layout.block}.{dense} always giving the most frequent answer scores {run.majority_score:.4f}. "
            f"The run was made with `{run.command()}`.")


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
