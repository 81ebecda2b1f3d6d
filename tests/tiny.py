"""Everything a test needs in a size that takes milliseconds: checkpoints, data, settings, runs."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from prune_core import files
from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.models import encoders
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run
from prune_core.tasks import glue
from prune_core.tasks.glue import TASKS, Task
from prune_core.training import session
from prune_core.training.data import EncodedTask
from prune_core.training.loop import Pruning

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "mpnet", "deberta-v2", "albert")
GOOD, BAD = ("fine", "lovely", "warm", "sharp"), ("dull", "cold", "stale", "weak")
FILLER = ("the", "a", "film", "soup", "was", "and", "very", "here", "today", "one", "two", "three")
SPECIAL = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]",
           "mask_token": "[MASK]"}
VOCABULARY = {word: number for number, word in enumerate((*SPECIAL.values(), *GOOD, *BAD, *FILLER))}
LAYERS, HIDDEN, INNER, POSITIONS = 2, 32, 64, 48


# ---------------------------------------------------------------- checkpoints


def tokenizer(model_type: str = "bert"):
    """Word-level, pairs joined as [CLS] a [SEP] b [SEP]; pads right."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, VOCABULARY[word]) for word in ("[CLS]", "[SEP]")])
    no_types = model_type in ("roberta", "distilbert", "mpnet")
    names = ["input_ids", *([] if no_types else ["token_type_ids"]), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=names,
                                   model_max_length=POSITIONS, **SPECIAL)


def model(model_type: str = "bert", seed: int = 0, **more):
    """Random weights of this architecture: 2 layers, hidden 32, intermediate 64, unless its config says `more`."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": INNER}
    if model_type == "distilbert":
        sizes = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": INNER}
    if model_type in ("electra", "albert"):
        sizes["embedding_size"] = 16
    usual = {"vocab_size": len(VOCABULARY), "max_position_embeddings": POSITIONS, "pad_token_id": 0,
             "initializer_range": 0.2}
    made = AutoConfig.for_model(model_type, **usual | sizes | more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(made)


def checkpoint(folder: Path, model_type: str = "bert", seed: int = 0, **more) -> Path:
    """Model and tokenizer, saved as transformers saves them; returns the folder."""
    with encoders.quiet():
        model(model_type, seed, **more).save_pretrained(folder)
        tokenizer(model_type).save_pretrained(folder)
    return Path(folder)


# ---------------------------------------------------------------- data


def sentences(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Sentences of 4 to 12 words, the one telling word good (1) or bad (0), in turn."""
    random = np.random.default_rng(seed)
    texts, labels = [], [row % 2 for row in range(count)]
    for label in labels:
        words = list(random.choice(FILLER, random.integers(3, 12)))
        words.insert(int(random.integers(len(words))), str(random.choice((BAD, GOOD)[label])))
        texts.append(" ".join(words))
    return texts, labels


def table(task: Task, count: int, seed: int) -> dict[str, list]:
    """The columns of a split of this task, as the hub names them."""
    texts, labels = sentences(count, seed)
    columns = dict.fromkeys(task.columns[:1], texts)
    columns |= {name: sentences(count, seed + 1)[0] for name in task.columns[1:]}
    values = [row % len(task.labels) if task.labels else float(label) * 5 for row, label in enumerate(labels)]
    return columns | {"label": values, "idx": list(range(count))}


def write_split(folder: Path, task: str, split: str, columns: Mapping[str, list]) -> None:
    """<folder>/<task>/<split>-00000-of-00001.parquet"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / task).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), folder / task / f"{split}-00000-of-00001.parquet")


def write_readme(folder: Path, splits: Mapping[str, tuple[str, ...]]) -> None:
    """The front matter by which `datasets` knows which file is which split of which task."""
    lines = ["---", "configs:"]
    for task, names in splits.items():
        lines += [f"- config_name: {task}", "  data_files:"]
        lines += [line for name in names for line in (f"  - split: {name}", f"    path: {task}/{name}-*")]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def data_folder(folder: Path, tasks: tuple[str, ...] = tuple(TASKS), train: int = 64, dev: int = 24) -> Path:
    """Tiny tasks in the layout of nyu-mll/glue; returns the folder."""
    for name in tasks:
        task = TASKS[name]
        write_split(folder, name, "train", table(task, train, 1))
        for number, split in enumerate(task.dev):
            write_split(folder, name, split, table(task, dev, 50 + number))
    write_readme(folder, {name: ("train", *TASKS[name].dev) for name in tasks})
    return folder


def spoiled(folder: Path, columns: Mapping[str, list], split: str = "validation") -> Path:
    """A folder whose sst2 is well except for this split."""
    data_folder(folder, ("sst2",))
    write_split(folder, "sst2", split, columns)
    return folder


# ---------------------------------------------------------------- settings, layouts, runs


def settings(model: Path, data: Path, **changes) -> PruneConfig:
    """A whole run in a second: 16x1 blocks, two compressions, one thread, fp32, learning rates that move a model."""
    small = {"model": str(model), "data": str(data), "task": "sst2",
             "block": "16x1", "scope": "matrix", "compressions": (1.5, 3.0),
             "dense_steps": 6, "penalty_steps": 12, "retrain_steps": 4,
             "dense_lr": 2e-3, "penalty_lr": 1e-3, "retrain_lr": 1e-3,
             "moments": 3, "milestones": 2, "batch_size": 8, "surface_examples": 12, "precision": "fp32", "threads": 1}
    return replace(PruneConfig(), **small | changes)


def pruning(asked: PruneConfig, **more) -> Pruning:
    """The loop in this process, nothing written."""
    data = glue.load(asked.task, asked.data)
    encoder = encoders.load(asked.model, data.task.outputs, asked.seed, asked.train_embeddings)
    return Pruning(encoder, EncodedTask.of(data, encoder, asked), asked, **more)


_made: dict[PruneConfig, Path] = {}
_folder = tempfile.TemporaryDirectory(prefix="prunescope-tiny-", ignore_cleanup_errors=True)
COMMAND = "python -m prune_core prune --run {}"


def silent(event, pruning) -> None:
    """A report that says nothing."""


def make_run(asked: PruneConfig, runs_dir: Path, name: str = "tiny") -> Run:
    """A complete run on the disk: trained once in this process, then copied."""
    path = Path(runs_dir) / name
    if asked not in _made:
        folder = Path(_folder.name) / str(len(_made))
        session.start(asked, folder, "run", COMMAND.format("run"), silent)
        _made[asked] = folder / "run"
    shutil.copytree(_made[asked], path)
    about = json.loads((path / "run.json").read_bytes())
    files.write_json(path / "run.json", about | {"name": name, "command": COMMAND.format(name), "created": time.time()})
    files.write_json(path / "result.json", json.loads((path / "result.json").read_bytes()) | {"run": name})
    return Run(path)


def layout(block: str = "2x1", sides: tuple[tuple[int, int], ...] = ((4, 2), (4, 2)),
           model_weights: int = 100) -> Layout:
    """One matrix per layer, their types alternating query and key."""
    matrices = [Matrix(f"m{at}", at, ("query", "key")[at % 2], *size) for at, size in enumerate(sides)]
    return Layout.of(matrices, BlockShape.parse(block), model_weights)


def about(layout: Layout, **changes) -> dict:
    """What run.json of a run without training says."""
    return {"command": "python -m prune_core prune", "config": PruneConfig(block=str(layout.block)).to_json(),
            "layout": layout.to_json(), "data": "nyu-mll/glue", "majority_score": 0.5, "notes": [],
            "task": {"name": "sst2", "metric": "accuracy", "labels": ["negative", "positive"]}} | changes


def unasked(run: Run, folder: Path) -> Run:
    """A copy of a run with nothing that was asked of it before: no scores, no Grams, no settings that were tried."""
    kept = shutil.ignore_patterns("scores", "known.jsonl", "tried-*.jsonl")
    return Run(shutil.copytree(run.path, folder, ignore=kept))
