"""Commands that keep order: list runs, delete and restore them, pack one; and the licences of all packages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prune_core import InputError
from prune_core.cli.licences import licences as licences_of_packages
from prune_core.cli.options import AsJson, RunsDir
from prune_core.cli.tell import tell
from prune_core.runs import index, places, shelf
from prune_core.runs.shelf import Listed
from prune_core.tasks.glue import HUB_DATA

Yes = Annotated[bool, Option("--yes", help="Do not ask.")]


def list_runs(runs_dir: RunsDir = places.RUNS, as_json: AsJson = False) -> None:
    """List your runs and the recorded ones, and the folders that hold none, with the reason."""
    rows = [_row(listed) for listed in index.listing(runs_dir)]
    tell({"runs": rows}, as_json, lambda r: "\n".join(map(_row_text, r["runs"])) or f"no runs in {runs_dir}")


def _row(listed: Listed) -> dict:
    """One entry of `runs --json`."""
    row = {"run": listed.name, "status": listed.status, "path": str(listed.path),
           "recorded": listed.path.parent == places.RECORDED}
    if listed.run is None:
        return row | {"reason": listed.reason}
    run = listed.run
    return row | {"task": run.task, "model": run.config.model, "data": run.data, "block": run.config.block,
                  "metric": run.metric, "dense_score": run.dense_score, "points": run.points,
                  "seed": run.config.seed, "formats": str(run.config.formats), "warnings": run.warnings,
                  "seconds": (run.result or {}).get("seconds")}


def _row_text(row: dict) -> str:
    if "reason" in row:
        return f"{row['run']:32} {row['status']:12} {row['reason']}"
    dense = "-" if row["dense_score"] is None else f"{row['dense_score']:.3f}"
    scores = "  ".join(f"{p['compression']:g}x {p['score_retrained']:.3f}"
                       for p in row["points"] if p["score_retrained"] is not None)
    scores += f"  in {row['formats']}" if row["formats"] else ""
    synthetic = "  (not GLUE)" if row["data"] == "practice" else ""
    return (f"{row['run']:32} {row['status']:12} {row['task']:8} {row['block']:7} {row['metric']} "
            f"dense {dense}  {scores}{synthetic}")


def delete(run: str, yes: Yes = False, runs_dir: RunsDir = places.RUNS, as_json: AsJson = False) -> None:
    """Move a run of yours into the trash; `restore` puts it back."""
    from prune_core.runs import trash

    if not yes and not typer.confirm(f"Move run {run!r} to the trash?", err=True):
        raise InputError("nothing was deleted")
    one = trash.delete(run, runs_dir)
    tell({"run": one.name, "key": one.key}, as_json,
         lambda r: f"{r['run']} is in the trash; undo: python -m prune_core restore {r['key']}")


def restore(
    run: Annotated[str | None, Argument(help="Name or key of a deleted run; without it, list them.")] = None,
    erase: Annotated[bool, Option("--erase", help="Delete it for good instead.")] = False,
    yes: Yes = False,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Put a deleted run back, or list what is in the trash."""
    from prune_core.runs import trash

    if run is None:
        rows = [{"key": one.key, "run": one.name, "bytes": one.size} for one in trash.deleted(runs_dir)]
        tell({"deleted": rows}, as_json, _trash_text)
    elif erase:
        if not yes and not typer.confirm(f"Delete {run!r} for good?", err=True):
            raise InputError("nothing was deleted")
        trash.erase(run, runs_dir)
        tell({"erased": run}, as_json, lambda r: f"{r['erased']} is gone")
    else:
        tell({"run": trash.restore(run, runs_dir)}, as_json, lambda r: f"{r['run']} is back")


def _trash_text(r: dict) -> str:
    return "\n".join(f"{one['key']:48} {one['bytes'] / 1e6:8.1f} MB" for one in r["deleted"]) or "the trash is empty"


def pack_run(
    run: str,
    to: Annotated[str, Option(help="A file ending in .zip, to move the run to another machine; or a name among the "
                                   "recorded runs.")],
    weights: Annotated[str, Option(help="Of a recorded run: stages whose weights ship too, for example "
                                        "retrain-2x,retrain-3x: of pruned matrices only the kept blocks; a file holds "
                                        "all.")] = "",
    data_name: Annotated[str, Option(help="What the data is called where it ships.")] = HUB_DATA,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Pack a complete run: whole, as one file with what it needs of its checkpoint and its own table (`unpack` reads
    it); or small and read-only in data/recorded, at most 10 MB beside the weights."""
    from prune_core.evaluation.weights import check_source, write_checkpoint, write_weights
    from prune_core.runs import archive, pack

    asked = shelf.find(run, runs_dir)
    checkpoint = None if asked.config.model == "minilm" else partial(write_checkpoint, asked)
    if to.endswith(archive.SUFFIX):
        result = archive.write(asked, Path(to), checkpoint)
        tell(result, as_json, lambda r: f"{r['path']}: {r['bytes'] / 1e6:.1f} MB; elsewhere: python -m prune_core "
                                        f"unpack {Path(to).name}")
        return
    check_source(asked, data_name)
    result = pack.pack(asked, to, weights.split(",") if weights else [], data_name, write_weights, checkpoint)
    tell(result, as_json,
         lambda r: f"{r['path']}: {r['bytes'] / 1e6:.1f} MB, of them {r['weights_bytes'] / 1e6:.1f} MB weights; "
                   f"{r['snapshots_with_norms']} snapshots with norms")


def unpack(
    file: Annotated[Path, Argument(help="What `pack --to NAME.zip` wrote.")],
    run: Annotated[str | None, Option(help="What to call it here; default: its own name.")] = None,
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Put a packed run among your runs; it can then be scored, cut and exported here."""
    from prune_core.runs import archive

    tell(archive.read(file, runs_dir, run), as_json, lambda r: f"{r['run']} is in {r['path']}")


def relocate(
    run: str,
    folder: Annotated[Path, Argument(help="Where the run's checkpoint lies now.")],
    runs_dir: RunsDir = places.RUNS,
    as_json: AsJson = False,
) -> None:
    """Tell a run where its checkpoint was moved to; refused where it is not the same."""
    from prune_core.evaluation import weights

    asked = shelf.find(run, runs_dir)
    tell({"run": asked.name, "folder": weights.relocate(asked, folder)}, as_json,
         lambda r: f"{r['run']} reads {r['folder']}")


def licences(as_json: AsJson = False) -> None:
    """The licences of all packages that requirements.txt pins."""
    tell({"licences": licences_of_packages()}, as_json, _licences_text)


def _licences_text(r: dict) -> str:
    return "\n".join(f"{one['package']:26} {one['version']:14} {one['licence']}" for one in r["licences"])
