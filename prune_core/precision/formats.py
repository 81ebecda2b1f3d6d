"""In which number formats and N:M patterns the kept weights of a model are stored, as objects and as text.

    Format   of one matrix: '32' 16 8 7 ... 2 ternary binary clusters-4; with a pattern '4/2:4', alone '2:4'
    Formats  of a model: '8', or one for each scope key 'layer:8,8,4/2:4,...'; then ';a8' (activations in 8 bits, a
             scale for each token; ';a8-tensor' for each matrix), ';e8' (word embeddings in 8 bits, by rows)

'' is fp32 with no pattern. Softmax, norms, GELU, residuals, biases and the head stay fp32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape, Layout
from prune_core.cutting.masks import SCOPES, by_scope, scope_key

KINDS = ("float", "levels", "ternary", "binary", "clusters")
MOST_GROUP = 64  # weights of a group of a pattern
_PATTERN = re.compile(r"([1-9]\d?):([1-9]\d?)")
ACTIVATIONS = {"a8": "token", "a8-tensor": "tensor"}
NONE = "none"  # in place of a pattern


@dataclass(frozen=True)
class Pattern:
    """At most `n` of every `m` consecutive inputs of a row are kept. ('N:M' as hardware has it.)"""

    n: int
    m: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """'2:4' -> Pattern(2, 4). Raises InputError."""
        found = _PATTERN.fullmatch(text.strip())
        n, m = map(int, found.groups()) if found else (0, 0)
        if not 1 <= n < m <= MOST_GROUP:
            raise InputError(f"pattern {text[:40]!r} is not N:M with N from 1 to M - 1 and M up to {MOST_GROUP}; "
                             "for example 2:4, 1:4, 1:2, 4:8")
        return cls(n, m)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def fitting(self) -> str:
        """Which blocks go with it, in words."""
        fit = ["one column", *(str(cols) for cols in range(2, self.n + 1) if self.m % cols == 0)]
        return f"blocks of {', '.join(fit)} or a multiple of {self.m}, or no pattern"

    def check(self, layout: Layout) -> None:
        """Raises InputError where it does not divide the inputs of a matrix, or contradicts the blocks."""
        for matrix in layout.matrices:
            if matrix.n % self.m:
                raise InputError(f"pattern {self}: {matrix.name} has {matrix.n} inputs, not divisible into groups of "
                                 f"{self.m}; needed: an M that divides it, for example 4")
            cols = layout.block.sides(matrix.m, matrix.n, matrix.name)[1]
            if 1 < cols and (cols % self.m if cols >= self.m else self.m % cols or cols > self.n):
                raise InputError(f"pattern {self} and block {layout.block} contradict each other: a block keeps {cols} "
                                 f"inputs of a row together, the pattern {self.n} of {self.m}; needed: {self.fitting}")


@dataclass(frozen=True)
class Format:
    """How the kept weights of a matrix are stored. `bits`: of one; levels are symmetric, zero is one of them.

    levels: K = 2^(bits-1) - 1 on each side, a scale for each output row; ternary -1 0 1, binary -1 1 likewise;
    clusters: 2^bits - 1 values of the matrix, and zero.
    """

    kind: str = "float"
    bits: int = 32
    pattern: Pattern | None = None

    @classmethod
    def parse(cls, text: str) -> Format:
        """'8', '4/2:4', '2:4', 'ternary', 'clusters-4'. Raises InputError."""
        text = text.strip()
        number, both, pattern = (text if "/" in text or ":" not in text else f"32/{text}").partition("/")
        made = cls(*_number(number))
        return replace(made, pattern=Pattern.parse(pattern)) if both else made

    def __str__(self) -> str:
        number = {"ternary": "ternary", "binary": "binary", "clusters": f"clusters-{self.bits}"}.get(
            self.kind, str(self.bits))
        if self.pattern is None:
            return number
        return f"{self.pattern}" if number == "32" else f"{number}/{self.pattern}"

    @property
    def words(self) -> str:
        """'8 bits, 2:4', 'ternary', 'fp32'"""
        number = {"ternary": "ternary", "binary": "binary", "clusters": f"{self.bits}-bit clusters"}.get(
            self.kind, {32: "fp32", 16: "bf16"}.get(self.bits, f"{self.bits} bits"))
        return f"{number}, {self.pattern}" if self.pattern else number

    @property
    def top(self) -> int:
        """K, the highest level: codes are -K to K; of clusters the number of values. 0 for floats."""
        return {"float": 0, "levels": 2 ** (self.bits - 1) - 1, "clusters": 2**self.bits - 1}.get(self.kind, 1)

    @property
    def executable(self) -> bool:
        """Whether int8 arithmetic executes its weights exactly: a scale for each row, integers up to 127."""
        return self.kind in ("levels", "ternary", "binary")


PLAIN = Format()
_BITS = {"32": ("float", 32), "16": ("float", 16), "ternary": ("ternary", 2), "binary": ("binary", 1)}
_BITS |= {str(bits): ("levels", bits) for bits in range(2, 9)}
_BITS |= {f"clusters-{bits}": ("clusters", bits) for bits in range(2, 9)}


def _number(text: str) -> tuple[str, int]:
    """Raises InputError."""
    if text not in _BITS:
        raise InputError(f"bits {text[:40]!r} are none that weights can have; needed: 32, 16, 8 to 2, ternary, binary, "
                         "or clusters-8 to clusters-2")
    return _BITS[text]


@dataclass(frozen=True)
class Formats:
    """The formats of a model: one for each scope key, in the layout's order; with 'global' one for all.

    `activations`: '' as they are, 'token' or 'tensor': 8 bits with a scale for each of these; `embeddings`: bits of the
    word embeddings, 32 or 8.
    """

    scope: str = "global"
    weights: tuple[Format, ...] = (PLAIN,)
    activations: str = ""
    embeddings: int = 32

    @classmethod
    def of_each(cls, layout: Layout, by_name: Mapping[str, Format], **more) -> Formats:
        """Each matrix with its own; in the shortest way to say it."""
        return cls("matrix", tuple(by_name.get(m.name, PLAIN) for m in layout.matrices), **more).shortest(layout)

    def shortest(self, layout: Layout) -> Formats:
        """The same said with one format where all are alike."""
        return replace(self, scope="global", weights=self.weights[:1]) if len(set(self.weights)) == 1 else self

    @property
    def plain(self) -> bool:
        """Whether everything is fp32 without a pattern."""
        return self == Formats() or set(self.weights) == {PLAIN} and not self.activations and self.embeddings == 32

    def of(self, layout: Layout) -> dict[str, Format]:
        """Matrix name -> its format. Raises InputError where there are not as many as scope keys."""
        keys = list(by_scope(layout, self.scope))
        if len(keys) != len(self.weights):
            raise InputError(f"{len(self.weights)} formats for {len(keys)} of scope {self.scope!r}; needed: one for "
                             f"each of {', '.join(keys)[:200]}")
        by_key = dict(zip(keys, self.weights, strict=True))
        return {matrix.name: by_key[scope_key(matrix, self.scope)] for matrix in layout.matrices}

    def check(self, layout: Layout) -> Formats:
        """Itself. Raises InputError where it does not fit the layout."""
        self.of(layout)
        for pattern in {one.pattern for one in self.weights if one.pattern}:
            pattern.check(layout)
        return self

    def __str__(self) -> str:
        """As `parse` reads it; '' for plain."""
        if self.plain:
            return ""
        each = ",".join(map(str, self.weights))
        text = each if self.scope == "global" else f"{self.scope}:{each}"
        text += {"token": ";a8", "tensor": ";a8-tensor"}.get(self.activations, "")
        return text + (";e8" if self.embeddings == 8 else "")

    @property
    def words(self) -> str:
        """'8 bits, activations 8 bits', 'a format for each layer'"""
        said = [self.weights[0].words if self.scope == "global" else f"a format for each {self.scope}"]
        said += [{"token": "activations 8 bits", "tensor": "activations 8 bits for each tensor"}[self.activations]
                 ] if self.activations else []
        return ", ".join(said + ["embeddings 8 bits"] * (self.embeddings == 8))


def as_options(text: str, trained: str | None = None) -> list[str]:
    """What says these formats on a command line: ['--bits=8', '--pattern=2:4', '--embedding-bits=8'].

    What a stage was `trained` in goes without saying (`over`), so what of that is not wanted is said too; None: it is
    not known, so all of it is. Raises InputError.
    """
    made, before = parse(text), parse("1:2;a8;e8" if trained is None else trained)
    given, undone = (any(one.pattern for one in each.weights) for each in (made, before))
    one = made.weights[0]
    if made.scope == "global":
        said, pattern = [f"--bits={replace(one, pattern=None)}"], one.pattern or NONE
    else:
        said, pattern = [f"--bits={made.scope}:{','.join(map(str, made.weights))}"], NONE
    if made.activations == "tensor":  # for which there is no option but a text
        said[0] += ";a8-tensor"
    said += [f"--pattern={pattern}"] if (given and pattern != NONE) or (undone and not given) else []
    if made.activations != "tensor" and (made.activations or before.activations):
        said += [f"--activation-bits={8 if made.activations else 32}"]
    return said + [f"--embedding-bits={made.embeddings}"] * (8 in (made.embeddings, before.embeddings))


def parse(text: str, layout: Layout | None = None) -> Formats:
    """The formats that a text names, checked against the layout where one is given. Raises InputError."""
    weights, *more = text.strip().split(";")
    weights = weights or "32"
    if wrong := [one for one in more if one not in (*ACTIVATIONS, "e8")]:
        raise InputError(f"formats {text[:80]!r}: {wrong[0]!r} is none of {', '.join(ACTIVATIONS)}, e8")
    if len({ACTIVATIONS.get(one, one) for one in more}) < len(more) or len({*more} & {*ACTIVATIONS}) > 1:
        raise InputError(f"formats {text[:80]!r} say the same twice, or both of {', '.join(ACTIVATIONS)}")
    scope, separated, each = weights.partition(":")
    if not separated or scope not in SCOPES:
        scope, each = "global", weights
    made = Formats(scope, tuple(Format.parse(one) for one in each.split(",")),
                   next((ACTIVATIONS[one] for one in more if one in ACTIVATIONS), ""), 8 if "e8" in more else 32)
    if scope == "global" and len(made.weights) > 1:
        raise InputError(f"formats {text[:80]!r} are several; needed: one, or 'layer:', 'type:', 'matrix:' before them")
    return made if layout is None else made.check(layout)


def by_kind(text: str, layout: Layout) -> dict[str, str]:
    """Kind of stage -> its formats in a run that retrains in these: of what is only cut their patterns, in fp32."""
    made = parse(text)
    only = Formats(made.scope, tuple(Format(pattern=one.pattern) for one in made.weights)).shortest(layout)
    return {"penalty": str(only), "retrain": str(made)}


def chosen(bits: str | None, pattern: str | None, activation_bits: int | None, embedding_bits: int | None,
           layout: Layout | None = None, activations: str = "token") -> Formats:
    """What options ask for: one format for all, or `bits` as `parse` has them. Raises InputError."""
    for name, value in (("activation bits", activation_bits), ("embedding bits", embedding_bits)):
        if value not in (None, 8, 32):
            raise InputError(f"{name} {value} are out of range; needed: 8 or 32")
    made = parse(bits or "")
    if pattern and pattern != NONE:
        one = Pattern.parse(pattern)
        if any(each.pattern not in (None, one) for each in made.weights):
            raise InputError(f"pattern {pattern!r} beside bits {bits!r}, which name another; needed: one of the two")
        made = replace(made, weights=tuple(replace(each, pattern=one) for each in made.weights))
    if pattern == NONE and any(each.pattern for each in made.weights):
        raise InputError(f"pattern {NONE!r} beside bits {bits!r}, which name one; needed: one of the two")
    made = replace(made, activations={None: made.activations, 8: activations, 32: ""}[activation_bits],
                   embeddings=embedding_bits or made.embeddings)
    return made if layout is None else made.check(layout)


def over(trained: Formats, layout: Layout, bits: str | None, pattern: str | None, activation_bits: int | None,
         embedding_bits: int | None) -> Formats:
    """What options ask for of a stage in `trained` formats: numbers, patterns, activations and embeddings, each as it
    was trained where it is not given. Raises InputError."""
    asked = chosen(bits, pattern, activation_bits, embedding_bits, layout)
    numbers, *more = (bits or "").split(";")
    said = bool(pattern) or any(one.pattern for one in asked.weights)
    made = asked if numbers.strip() else trained
    if said and not numbers.strip():
        only = asked.weights[0].pattern
        made = replace(trained, weights=tuple(replace(one, pattern=only) for one in trained.weights))
    elif not said and any(one.pattern for one in trained.weights):
        own, wanted = trained.of(layout), made.of(layout)
        mixed = {name: replace(wanted[name], pattern=one.pattern) for name, one in own.items()}
        made = made if wanted == mixed else Formats.of_each(layout, mixed)
    return replace(made, activations=(asked if activation_bits or {*more} & {*ACTIVATIONS} else trained).activations,
                   embeddings=(asked if embedding_bits or "e8" in more else trained).embeddings).check(layout)


def fits_block(pattern: Pattern, block: BlockShape) -> bool:
    """Whether the pattern's groups and the columns of a block can go together, whatever the matrix."""
    cols = block.cols or pattern.m
    return cols == 1 or cols % pattern.m == 0 or (pattern.m % cols == 0 and cols <= pattern.n)
