"""The pruning methods, one row each: what is said of them, their own settings, what builds them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MethodRow:
    """`build(weights, layout, scope, **settings)` makes a method.Method, on weights name -> (m, n).

    In closed form `build(encoder, layout, scope, grams, data, sentences, **settings)` makes a closed_form.ClosedForm.
    """

    name: str
    words: str
    build: Callable
    settings: tuple[str, ...] = ()  # of the run's, those that only this method knows
    closed_form: bool = False  # takes no steps: all training is retraining
    ranking: str | None = None  # a row of rankings.py by which it cuts, whatever the run says; None: there is none such
    scope: str | None = None  # what shares a threshold where nothing is said; None: as it suits the run's ranking
    variants: Mapping[str, Mapping] | None = None  # what `compare` offers: name -> settings; None: the method as it is
    takes_formats: bool = False  # whether `build` is given the run's: its own way to a pattern
    quantizes: bool = False  # whether weights are rounded under the penalty as well
    formats: Mapping[str, str] | None = None  # settings of a run that it has where neither bits nor pattern are said
    explained: str = ""  # what it does, for people who have never heard of it: a verb first, no full stop


def _group_lasso(weights, layout, scope, lam, penalty, reweighted, control, spare):
    from prune_core.methods.group_lasso import DynamicGroupLasso, InLossGroupLasso, ProximalGroupLasso
    shared = {"lam": lam or 0.0, "scope": scope, "reweighted": reweighted}
    if penalty == "in-loss":
        return InLossGroupLasso(weights, layout, **shared)
    proximal = DynamicGroupLasso if control == "dynamic" else ProximalGroupLasso
    return proximal(weights, layout, **shared, spare=spare)


def _magnitude(weights, layout, scope):
    from prune_core.methods.masking import GradualMagnitude
    return GradualMagnitude(weights, layout, scope)


def _movement(weights, layout, scope):
    from prune_core.methods.masking import Movement
    return Movement(weights, layout, scope)


def _admm(weights, layout, scope, progressive, formats):
    from prune_core.methods.admm import ADMM
    from prune_core.methods.constraints import Blocks, Chain, of_pattern
    pattern = of_pattern(formats.of(layout))
    if not pattern:
        return ADMM(weights, layout, scope, progressive)
    # A pattern is whole from the start, and the weights are to follow it from one of 20 rounds to the next
    return ADMM(weights, layout, scope, progressive, Chain([Blocks(layout, scope), *pattern]), rho=500.0, rounds=20,
                solved=True)


def _surgeon(*measured):
    from prune_core.methods.closed_form import SurgeonCut
    return SurgeonCut(*measured)


def _admm_closed(*measured):
    from prune_core.methods.closed_form import BlockADMM
    return BlockADMM(*measured)


ROWS = (
    MethodRow("group-lasso", "reweighted group Lasso: a penalty draws whole blocks to zero", _group_lasso,
              ("lam", "penalty", "reweighted", "control", "spare"),
              variants={"reweighted": {"reweighted": True}, "group-lasso": {"reweighted": False},
                        "in-loss": {"penalty": "in-loss"}, "dynamic": {"control": "dynamic"}},
              explained="adds a penalty to training that pulls whole blocks to zero, the weakest ones hardest"),
    MethodRow("magnitude", "more and more of the lowest blocks are cut", _magnitude,
              explained="cuts the blocks with the smallest weights, a few more at a time, while training goes on"),
    MethodRow("movement", "blocks that training moves towards zero are cut", _movement,
              explained="cuts the blocks that training itself is shrinking, however large they still are"),
    MethodRow("admm", "blocks, and a pattern beside them, are drawn to the nearest sparse ones", _admm,
              ("progressive",), takes_formats=True,
              variants={"admm": {}, "admm-once": {"progressive": False}, "admm-nm": {"pattern": "2:4"}},
              explained="trains the full weights towards a pruned copy of them, until the two agree"),
    MethodRow("nxm-qat", "a pattern by ADMM and bits by rounding, both at once", _admm, ("progressive",),
              takes_formats=True, quantizes=True, formats={"pattern": "2:4", "bits": "8"},
              explained="trains weights that are rounded already towards a pattern of zeros in every row, so that few "
                        "weights and few bits get used to each other"),
    MethodRow("surgeon", "cuts block after block, each where it costs least then", _surgeon,
              closed_form=True, ranking="surgeon", scope="global",
              explained="removes the blocks whose loss would cost least, estimated from second derivatives, and moves "
                        "the other weights to make up for it"),
    MethodRow("admm-closed", "ADMM on the outputs of every matrix", _admm_closed, closed_form=True,
              explained="cuts each matrix at once so that its outputs change least, by calculation, without training"),
)
METHODS: dict[str, MethodRow] = {row.name: row for row in ROWS}
DISTILLED = "learns from the dense model's answers as well as from the labels"


@dataclass(frozen=True)
class QuantizerRow:
    """How weights come onto their levels while they are retrained (methods/qat.py). `kinds`: of format, as there."""

    name: str
    words: str
    kinds: tuple[str, ...] = ("levels", "ternary", "binary", "clusters")


QUANTIZERS: dict[str, QuantizerRow] = {row.name: row for row in (
    QuantizerRow("ste", "rounded in every step, straight-through gradients"),
    QuantizerRow("interval", "the same, the scale by least squares in every step", ("levels",)),
    QuantizerRow("lsq", "the same, the scale learned with the weights", ("levels",)),
    QuantizerRow("admm", "drawn to the nearest levels, on them at the end"),
    QuantizerRow("iterative", "share after share is put on its levels and frozen, the rest goes on training"),
)}
USUAL = "ste"


def quantizers_explained() -> str:
    """'ste: rounded in every step. lsq: ...'"""
    return " ".join(f"{name}: {row.words}." for name, row in QUANTIZERS.items())


def stepwise() -> list[str]:
    """The methods that train, step by step."""
    return [name for name, row in METHODS.items() if not row.closed_form]


def at_once() -> list[str]:
    """The methods that cut in closed form."""
    return [name for name, row in METHODS.items() if row.closed_form]


def with_setting(setting: str) -> list[str]:
    """The methods that this setting belongs to."""
    return [name for name, row in METHODS.items() if setting in row.settings]


def variants() -> dict[str, dict]:
    """What `compare` offers: what to call it -> the settings that make it."""
    offered = {}
    for row in METHODS.values():
        always = {"method": row.name} | ({"scope": row.scope} if row.scope else {})
        for name, settings in (row.variants or {row.name: {}}).items():
            offered[name] = always | dict(settings)
    return offered
