"""What a run is asked to do: one frozen object, checked once, kept with the run. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import SCOPES, sparsity_of
from prune_core.methods import rankings, table
from prune_core.methods.rankings import RANKINGS
from prune_core.methods.table import METHODS, QUANTIZERS, USUAL
from prune_core.precision import formats as number_formats
from prune_core.precision.formats import Formats
from prune_core.tasks.glue import HUB_DATA

PENALTIES = ("proximal", "in-loss")
CONTROLS = ("line", "dynamic")
PRECISIONS = ("auto", "bf16", "fp32")
OUTSIDE = {"ranking": "score"}  # settings that run.json, options and messages call by another name
BEFORE = {"distill": 0.0, "score": "norm", "dropout": True}  # what runs did before there was such a setting


@dataclass(frozen=True)
class PruneConfig:
    """Every setting of a run; the defaults are the embedded default's main job.

    Steps of a phase: `*_steps` if given, else `*_epochs`, but at most `*_budget` seconds of work at
    NOMINAL_FLOPS (`retrain_budget` is shared by all compressions).
    """

    model: str = "minilm"
    revision: str | None = None  # of a hub name: a branch, a tag or a commit; None: the main branch
    task: str = "sst2"
    data: str = HUB_DATA
    columns: tuple[str, ...] = ()  # of the text, in a table file; (): guessed
    label: str = ""  # its column there; "": guessed
    regression: bool = False  # labels there are a score, whole numbers too
    start_from: str | None = None  # a run whose fine-tuned dense weights to start from, instead of fine-tuning
    block: str = "64x1"
    compressions: tuple[float, ...] = (2.0,)  # of the encoder
    lam: float | None = None  # fixed lambda; None: controlled to reach the largest compression
    method: str = "group-lasso"  # a row of methods/table.py
    penalty: str = "proximal"
    reweighted: bool = True
    control: str = "line"  # proximal: lambda follows the wanted share; or is bounded, and falls as that comes near
    progressive: bool = True  # ADMM: the share that is projected onto rises along the line; False: whole from the start
    spare: bool = True  # proximal, lambda controlled: penalise only the groups that are to go
    scope: str | None = None  # what shares a threshold; None: global where matrices are compared, else matrix
    ranking: str = "activation"  # what decides which groups go: a row of methods/rankings.py
    distill: float = 0.9  # share of the loss that is the distance to the dense model's outputs, once there is one
    temperature: float = 2.0  # at which outputs are compared
    distill_hidden: float = 0.0  # weight of the distance between hidden states; costs a pass of the teacher a step
    dropout: bool | None = None  # under the penalty and in retraining; None: only where no teacher holds the model
    bits: str = ""  # of the weights, in retraining: as precision/formats.py reads it; "": fp32
    pattern: str = ""  # N:M of the weights, likewise
    activation_bits: int | None = None  # of what goes into the prunable matrices
    embedding_bits: int | None = None  # of the word embeddings
    quantizer: str = USUAL  # how weights come onto their levels: a row of methods/table.py
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
    allow_unknown: bool = False  # whether to go on with a tokenizer that knows too few of the task's words
    seed: int = 0
    threads: int = 0  # 0: all cores

    def __post_init__(self):
        BlockShape.parse(self.block)
        self._check_names()
        _settle_formats_(self)
        object.__setattr__(self, "compressions", tuple(sorted({float(c) for c in self.compressions})))
        if self.scope is None:
            compared = RANKINGS[self.ranking].compares_matrices
            object.__setattr__(self, "scope", METHODS[self.method].scope or ("global" if compared else "matrix"))
        if self.dropout is None:
            object.__setattr__(self, "dropout", not self.taught)
        _check_ranges(self)
        if not self.threads:
            object.__setattr__(self, "threads", os.cpu_count() or 1)

    def _check_names(self) -> None:
        """Raises InputError for a word that is none of those there are."""
        for name, known in (("method", METHODS), ("ranking", rankings.in_training()), ("penalty", PENALTIES),
                            ("scope", (*SCOPES, None)), ("precision", PRECISIONS), ("control", CONTROLS),
                            ("quantizer", QUANTIZERS)):
            value, words = getattr(self, name), ", ".join(filter(None, known))
            _needs(value in known, f"{OUTSIDE.get(name, name)} {value!r} is unknown; one of {words}")

    def settings(self) -> dict[str, object]:
        """All settings, by their names outside."""
        return {OUTSIDE.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}

    def to_json(self) -> dict:
        """All settings, as run.json has them."""
        return self.settings() | {"compressions": list(self.compressions), "columns": list(self.columns)}

    @property
    def of_method(self) -> dict[str, object]:
        """The settings that only its method knows, and the formats where it trains towards them."""
        row = METHODS[self.method]
        own = {name: getattr(self, name) for name in row.settings}
        return own | ({"formats": self.formats} if row.takes_formats else {})

    @property
    def formats(self) -> Formats:
        """In which formats retraining ends. Raises InputError where there are no such."""
        return number_formats.chosen(self.bits, self.pattern, self.activation_bits, self.embedding_bits)

    @property
    def taught(self) -> bool:
        """Whether the dense model is a teacher."""
        return bool(self.distill or self.distill_hidden or self.mixkd)

    @classmethod
    def from_json(cls, data: Mapping) -> PruneConfig:
        """Raises InputError where settings are unknown, of another type, or out of range."""
        _needs(isinstance(data, Mapping), f"settings are a {type(data).__name__}; needed: an object")
        names = {OUTSIDE.get(field.name, field.name): field.name for field in fields(cls)}
        unknown = sorted(set(data) - set(names))
        _needs(not unknown, f"settings {unknown} are unknown to this version of Prunescope")
        tuples = {name: data[name] for name in ("compressions", "columns") if name in data}
        for name, kind, words in (("compressions", int | float, "numbers"), ("columns", str, "names")):
            values = tuples.get(name, [])
            fits = isinstance(values, list | tuple) and all(isinstance(one, kind) for one in values)
            _needs(fits, f"{name} is {str(values)[:60]!r}; needed: a list of {words}")
        given = {**BEFORE, **data, **{name: tuple(values) for name, values in tuples.items()}}
        hints = _hints()
        for name, value in given.items():
            _check_type(name, value, hints[names[name]])
        return cls(**{names[name]: value for name, value in given.items()})


@cache
def _hints() -> dict[str, object]:
    """Field -> its type: asked once, as it takes a millisecond and thousands of runs are listed."""
    return get_type_hints(PruneConfig)


def _settle_formats_(config: PruneConfig) -> None:
    """A method's own formats where none are said. Raises InputError for formats that there are not, or not here."""
    usual = METHODS[config.method].formats or {}
    if usual and not config.bits:
        object.__setattr__(config, "bits", usual["bits"])
    if usual and not config.pattern and not any(one.pattern for one in config.formats.weights):
        object.__setattr__(config, "pattern", usual["pattern"])
    given, block, quantizer = config.formats.weights, BlockShape.parse(config.block), QUANTIZERS[config.quantizer]
    patterns, kinds = {one.pattern for one in given if one.pattern}, {one.kind for one in given} - {"float"}
    _needs(not usual or all(one.kind != "float" and one.pattern for one in given), f"method {config.method!r} trains "
           f"few bits and a pattern in every matrix; bits {config.bits!r} with pattern {config.pattern!r} are not "
           "that; needed: for example bits 8 with pattern 2:4")
    for pattern in patterns:
        _needs(number_formats.fits_block(pattern, block), f"pattern {pattern} and block {block} contradict each other; "
               f"needed: {pattern.fitting}")
    _needs(kinds or quantizer.name == USUAL, f"quantizer {config.quantizer!r} has no bits to bring weights to; "
           "needed: bits too, for example 8")
    fitting = ", ".join(row.name for row in QUANTIZERS.values() if kinds <= set(row.kinds))
    _needs(kinds <= set(quantizer.kinds), f"quantizer {config.quantizer!r} does not train "
           f"{', '.join(sorted(kinds - set(quantizer.kinds)))}; needed: one of {fitting}")


def _check_ranges(config: PruneConfig) -> None:
    """Raises InputError for a number that is out of range, or settings that do not fit together."""
    for compression in config.compressions:
        sparsity_of(compression)
    _needs(config.compressions, "compression is empty; needed: at least one, for example 2")
    _needs(config.lam is None or 0 <= config.lam < math.inf, f"lambda {config.lam} is out of range; needed: 0 or more")
    _needs(config.lam is None or "lam" in METHODS[config.method].settings,
           f"lambda is a setting of {' and '.join(table.with_setting('lam'))}; method {config.method!r} has none")
    controlled = "control" in METHODS[config.method].settings and config.penalty == "proximal" and config.lam is None
    _needs(config.control == "line" or controlled, f"control {config.control!r} is for the proximal penalty of "
           f"{' and '.join(table.with_setting('control'))}, without a fixed lambda")
    for name in ("batch_size", "max_length", "dense_steps", "penalty_steps", "retrain_steps", "train_examples",
                 "dev_examples", "surface_examples", "milestones", "moments"):
        value = getattr(config, name)
        _needs(value is None or value >= 1, f"{name} {value} is out of range; needed: 1 or more")
    for name in ("dense_lr", "penalty_lr", "retrain_lr"):
        value = getattr(config, name)
        _needs(0 < value < math.inf, f"{name} {value} is out of range; needed: above 0, for example 1e-4")
    _needs(0 <= config.distill <= 1, f"distill {config.distill} is out of range; needed: 0 to 1")
    _needs(0 <= config.distill_hidden < math.inf,
           f"distill_hidden {config.distill_hidden} is out of range; needed: 0 or more")
    _needs(0 < config.temperature < math.inf,
           f"temperature {config.temperature} is out of range; needed: above 0, for example 2")
    _needs(0 <= config.threads <= 4096, f"threads {config.threads} is out of range; needed: 1 or more")
    _needs(0 <= config.seed < 2**63, f"seed {config.seed} is out of range; needed: 0 or more")


def _check_type(name: str, value: object, hint: object) -> None:
    """Raises InputError where the value is none of the kinds that the hint names; a whole number is a number."""
    kinds = tuple(get_origin(one) or one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
    kinds += (int,) if float in kinds else ()
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    _needs(fits, f"{name} {str(value)[:60]!r} is no {' or '.join(kind.__name__ for kind in kinds)}")


def _needs(condition: object, message: str) -> None:
    if not condition:
        raise InputError(message)


def rooted(config: PruneConfig) -> PruneConfig:
    """The same with whole paths where model or data is on this disk, so that the run works from any folder."""
    paths = {name: os.path.expanduser(getattr(config, name)) for name in ("model", "data")}
    return replace(config, **{name: os.path.abspath(path) for name, path in paths.items()
                              if path not in ("", "minilm", "practice") and os.path.exists(path)})


PRESETS: dict[str, dict] = {
    # at most three minutes on two cores: enough to see the method work, not enough to judge it. Small batches, as what
    # is short is steps: of 45 seconds of fine-tuning MNLI has 0.507 by batches of 16, of 22 by batches of 32 0.404
    "quick": dict(dense_epochs=2, penalty_epochs=2, retrain_epochs=1, dense_budget=45, penalty_budget=16,
                  retrain_budget=9, batch_size=16, moments=8, milestones=4, surface_examples=128, dev_examples=1000),
    # at most an hour; by what scored best where methods were compared (docs/results.md)
    "standard": dict(method="surgeon"),
    # what the task wants, however long it takes
    "full": dict(method="surgeon", dense_epochs=4, penalty_epochs=6, retrain_epochs=4,
                 dense_budget=None, penalty_budget=None, retrain_budget=None, surface_examples=None),
}


def preset(name: str, **settings) -> PruneConfig:
    """The config of a preset, with `settings` on top. Raises InputError."""
    _needs(name in PRESETS, f"preset {name!r} is unknown; one of {', '.join(PRESETS)}")
    return PruneConfig(preset=name, **PRESETS[name] | settings)


# A setting that `prune` has an option for -> the option's name, without dashes; the others are a preset's to choose
OPTIONS: Mapping[str, str] = {name: name.replace("_", "-") for name in (
    "model", "revision", "task", "data", "label", "regression", "block", "preset", "seed", "threads", "method",
    "penalty", "reweighted", "spare", "control", "progressive", "scope", "distill", "temperature", "distill_hidden",
    "dropout", "mixkd", "bits", "pattern", "activation_bits", "embedding_bits", "quantizer", "dense_steps",
    "penalty_steps", "retrain_steps", "penalty_lr", "retrain_lr", "surface_examples", "precision", "allow_unknown",
)} | {"columns": "text", "start_from": "from", "compressions": "compression", "lam": "lambda", "ranking": "score"}
