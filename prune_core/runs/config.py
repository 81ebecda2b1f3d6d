"""What a run is asked to do: one frozen object, checked once, kept with the run. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import SCOPES, sparsity_of
from prune_core.tasks.glue import HUB_DATA

METHODS = ("group-lasso", "magnitude", "movement", "admm", "surgeon", "admm-closed")
CLOSED_FORM = ("surgeon", "admm-closed")  # methods that take no steps: all training is retraining
PENALTIES = ("proximal", "in-loss")
CONTROLS = ("line", "dynamic")
SCORES = ("norm", "activation", "surgeon")
PRECISIONS = ("auto", "bf16", "fp32")
BEFORE = {"distill": 0.0, "score": "norm", "dropout": True}  # what runs did that were recorded before there was such a setting


@dataclass(frozen=True)
class PruneConfig:
    """Every setting of a run; the defaults are the embedded default's main job.

    Steps of a phase: `*_steps` if given, else `*_epochs`, but at most `*_budget` seconds of work at
    NOMINAL_FLOPS (`retrain_budget` is shared by all compressions).
    """

    model: str = "minilm"
    task: str = "sst2"
    data: str = HUB_DATA
    columns: tuple[str, ...] = ()  # of the text, in a table file; (): guessed
    label: str = ""  # its column there; "": guessed
    start_from: str | None = None  # a run whose fine-tuned dense weights to start from, instead of fine-tuning
    block: str = "64x1"
    compressions: tuple[float, ...] = (2.0,)  # of the encoder
    lam: float | None = None  # fixed lambda; None: controlled to reach the largest compression
    method: str = "group-lasso"  # or the gradual magnitude, movement or ADMM that it is compared with
    penalty: str = "proximal"
    reweighted: bool = True
    control: str = "line"  # proximal: lambda follows the wanted share; or is bounded, and falls with what is missing to it in every layer
    progressive: bool = True  # ADMM: the share that is projected onto rises along the line; False: it is the whole from the start
    spare: bool = True  # proximal, lambda controlled: penalise only the groups that are to go
    scope: str | None = None  # what shares a threshold; None: global where the surgeon scores, as it compares matrices, else matrix
    score: str = "activation"  # what decides which groups go: their norm, or the norm weighted by the inputs it meets or by the surgeon
    distill: float = 0.9  # share of the loss that is the distance to the dense model's outputs, under the penalty and in retraining
    temperature: float = 2.0  # at which outputs are compared
    distill_hidden: float = 0.0  # weight of the distance between hidden states; costs a pass of the teacher in every step
    dropout: bool | None = None  # under the penalty and in retraining; None: only where no teacher holds the model
    mixkd: bool = False  # distil on pairs of sentences mixed at the embeddings as well; costs a pass of both models
    preset: str = "standard"
    dense_epochs: float = 3
    penalty_epochs: float = 3
    retrain_epochs: float = 1
    dense_budget: float | None = 480
    penalty_budget: float | None = 480
    retrain_budget: float | None = 720
    dense_steps: int | None = None
    penalty_steps: int | None = None
    retrain_steps: int | None = None
    milestones: int = 9
    moments: int = 20  # block norms recorded in between
    batch_size: int = 32
    max_length: int = 128
    dense_lr: float = 1e-4
    penalty_lr: float = 2e-4
    retrain_lr: float = 2e-4
    weight_decay: float = 0.01
    warmup: float = 0.06
    train_examples: int | None = None
    dev_examples: int | None = None
    surface_examples: int | None = 2000
    precision: str = "auto"
    train_embeddings: bool = False
    seed: int = 0
    threads: int = 0  # 0: all cores

    def __post_init__(self):
        BlockShape.parse(self.block)
        if self.scope is None:
            object.__setattr__(self, "scope", "global" if "surgeon" in (self.method, self.score) else "matrix")
        if self.dropout is None:
            object.__setattr__(self, "dropout", not self.taught)
        object.__setattr__(self, "compressions", tuple(sorted({float(c) for c in self.compressions})))
        for compression in self.compressions:
            sparsity_of(compression)
        _needs(self.compressions, "compression is empty; needed: at least one, for example 2")
        for name, known in (("method", METHODS), ("penalty", PENALTIES), ("scope", SCOPES), ("precision", PRECISIONS), ("score", SCORES),
                            ("control", CONTROLS)):
            value = getattr(self, name)
            _needs(value in known, f"{name} {value!r} is unknown; one of {', '.join(known)}")
        _needs(self.lam is None or 0 <= self.lam < math.inf, f"lambda {self.lam} is out of range; needed: 0 or more")
        _needs(self.lam is None or self.method == "group-lasso", f"lambda is a setting of group-lasso; method {self.method!r} has none")
        _needs(self.control == "line" or (self.method, self.penalty) == ("group-lasso", "proximal") and self.lam is None,
               f"control {self.control!r} is for the proximal penalty of group-lasso, without a fixed lambda")
        for name in ("batch_size", "max_length", "dense_steps", "penalty_steps", "retrain_steps", "train_examples",
                     "dev_examples", "surface_examples", "milestones", "moments"):
            value = getattr(self, name)
            _needs(value is None or value >= 1, f"{name} {value} is out of range; needed: 1 or more")
        for name in ("dense_lr", "penalty_lr", "retrain_lr"):
            _needs(0 < getattr(self, name) < math.inf, f"{name} {getattr(self, name)} is out of range; needed: above 0, for example 1e-4")
        _needs(0 <= self.distill <= 1, f"distill {self.distill} is out of range; needed: 0 to 1")
        _needs(0 <= self.distill_hidden < math.inf, f"distill_hidden {self.distill_hidden} is out of range; needed: 0 or more")
        _needs(0 < self.temperature < math.inf, f"temperature {self.temperature} is out of range; needed: above 0, for example 2")
        _needs(0 <= self.threads <= 4096, f"threads {self.threads} is out of range; needed: 1 or more")
        _needs(0 <= self.seed < 2**63, f"seed {self.seed} is out of range; needed: 0 or more")
        if not self.threads:
            object.__setattr__(self, "threads", os.cpu_count() or 1)

    def to_json(self) -> dict:
        return asdict(self) | {"compressions": list(self.compressions), "columns": list(self.columns)}

    @property
    def taught(self) -> bool:
        """Whether the dense model is a teacher."""
        return bool(self.distill or self.distill_hidden or self.mixkd)

    @classmethod
    def from_json(cls, data: Mapping) -> PruneConfig:
        """Raises InputError where settings are unknown, of another type, or out of range."""
        _needs(isinstance(data, Mapping), f"settings are a {type(data).__name__}; needed: an object")
        unknown = sorted(set(data) - {field.name for field in fields(cls)})
        _needs(not unknown, f"settings {unknown} are unknown to this version of Prunescope")
        tuples = {name: data[name] for name in ("compressions", "columns") if name in data}
        for name, kind in (("compressions", int | float), ("columns", str)):
            fits = isinstance(tuples.get(name, []), list | tuple) and all(isinstance(one, kind) for one in tuples.get(name, []))
            _needs(fits, f"{name} is {str(tuples.get(name))[:60]!r}; needed: a list of {'numbers' if name == 'compressions' else 'names'}")
        given = {**BEFORE, **data, **{name: tuple(values) for name, values in tuples.items()}}
        for name, hint in get_type_hints(cls).items():
            kinds = tuple(get_origin(one) or one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
            kinds += (int,) if float in kinds else ()
            fits = name not in given or isinstance(given[name], kinds) and (bool in kinds or not isinstance(given[name], bool))
            _needs(fits, f"{name} {str(given.get(name))[:60]!r} is no {' or '.join(kind.__name__ for kind in kinds)}")
        return cls(**given)


def _needs(condition: object, message: str) -> None:
    if not condition:
        raise InputError(message)


PRESETS: dict[str, dict] = {
    # about three minutes: enough to see the method work, not enough to judge it
    "quick": dict(dense_epochs=2, penalty_epochs=2, retrain_epochs=1, dense_budget=22, penalty_budget=16,
                  retrain_budget=9, moments=8, milestones=4, surface_examples=128, dev_examples=1000),
    # at most an hour; by what scored best where methods were compared (docs/results.md)
    "standard": dict(method="surgeon"),
    # what the task wants, however long it takes
    "full": dict(method="surgeon", dense_epochs=4, penalty_epochs=6, retrain_epochs=4, dense_budget=None, penalty_budget=None,
                 retrain_budget=None, surface_examples=None),
}


def preset(name: str, **settings) -> PruneConfig:
    """The config of a preset, with `settings` on top. Raises InputError."""
    _needs(name in PRESETS, f"preset {name!r} is unknown; one of {', '.join(PRESETS)}")
    return PruneConfig(preset=name, **PRESETS[name] | settings)


# A setting that `prune` has an option for -> the option's name, without dashes; the others are a preset's to choose
OPTIONS: Mapping[str, str] = {name: name.replace("_", "-") for name in (
    "model", "task", "data", "label", "block", "preset", "seed", "threads", "method", "penalty", "reweighted", "spare",
    "control", "progressive", "scope", "score", "distill", "temperature", "distill_hidden", "dropout", "mixkd",
    "dense_steps", "penalty_steps", "retrain_steps", "penalty_lr", "retrain_lr", "surface_examples", "precision",
)} | {"columns": "text", "start_from": "from", "compressions": "compression", "lam": "lambda"}
