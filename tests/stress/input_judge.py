"""Judges a checkpoint folder: what is read equals plain transformers on masked dense weights, or it is one line."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape, Layout
from prune_core.cutting.masks import BlockMask
from prune_core.execution.compact import compact
from prune_core.execution.probe import probe
from prune_core.execution.unpadded import unpad_
from prune_core.methods import repair
from prune_core.models import encoders, identity, tokenizers
from prune_core.models.encoders import Encoder
from prune_core.tasks.encoding import Encoded, encode
from prune_core.tasks.glue import Examples

NEAR = 1e-5  # of the outputs' scale, which is at least 1
ASKED = 24  # tokens at most
LEAKING = ("convbert", "fnet", "funnel", "mra", "nystromformer", "squeezebert", "big_bird", "xlnet")
SHAPES = ("1x1", "2x1", "4x1", "8x1", "16x1", "2x2", "4x4", "8x8", "1x4", "16x16", "64x1", "1x8")
HANDED_OUT = 0.3  # share of those that are written again
LONGEST = 600  # characters of a message


@dataclass
class Made:
    """A folder, and what its maker knows: `model` as saved (fp32), how it must end, and whether those tensors tell.

    `order`: for each of the task's `labels` the output of the saved head; None: as they stand.
    """

    folder: Path
    kind: str
    model: nn.Module
    texts: list[tuple[str, ...]]
    what: str
    ending: str = "read"
    saved: bool = False
    outputs: int = 2
    labels: tuple[str, ...] = ()
    order: tuple[int, ...] | None = None
    room: int | None = None


@dataclass(frozen=True)
class Verdict:
    """`ended`: equal, refused or wrong; `deviation` of the outputs' scale; what went wrong, or what it said."""

    ended: str
    deviation: float = 0.0
    words: str = ""


class Wrong(Exception):
    """A silent difference."""


def verdict(made: Made, chance: random.Random) -> Verdict:
    """Read it as a run does, and hold it against plain transformers."""
    try:
        encoder = _read(made)
    except InputError as error:
        line = str(error)
        if not line.strip() or "\n" in line or len(line) > LONGEST:
            return Verdict("wrong", words=f"not one clear line: {line[:200]!r}")
        return Verdict("wrong" if made.ending == "read" else "refused", words=f"refused: {line}")
    except Exception as error:
        return Verdict("wrong", words=f"traceback: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if made.ending == "refused":
        return Verdict("wrong", words=f"read what is broken; said: {'; '.join(encoder.notes)}")
    try:
        deviation = _held_against_plain(made, encoder, chance)
    except Exception as error:
        return Verdict("wrong", words=f"{type(error).__name__}: {' '.join(str(error).split())[:240]}")
    return Verdict("equal" if deviation <= NEAR else "wrong", deviation, f"deviation {deviation:.2g}")


def _read(made: Made) -> Encoder:
    """As training/session.py does before the first step. Raises InputError."""
    where = f"model {made.folder.name!r}"
    encoder = encoders.load(str(made.folder), made.outputs, labels=made.labels)
    tokenizers.check_words(encoder.tokenizer, Examples(made.texts, np.zeros(0)), where)
    tokenizers.check_longest(encoder.tokenizer, encoder.model, encoder.max_length(ASKED), where)
    identity.digests(encoder.folder, encoder.model)
    probe(encoder, encoder.layout(BlockShape.parse("1x1")).block)
    return encoder


# ---------------------------------------------------------------- what plain transformers makes of it


def _plain(made: Made, encoder: Encoder) -> nn.Module:
    """The same folder as transformers loads it, its head that of `encoder` where it was drawn. Raises Wrong."""
    drawn = {name for note in encoder.notes if note.startswith("new, drawn from the seed: ")
             for name in re.sub(r" \(.*", "", note.partition(": ")[2]).split(", ")}
    model, fresh = (made.model, drawn) if made.saved or made.order else _from_folder(made, drawn)
    their = dict(model.named_parameters())
    if fresh & their.keys() != drawn:
        raise Wrong(f"transformers drew {sorted(fresh - drawn)[:4]}, and it was not said; "
                    f"said: {sorted(drawn - fresh)[:4]}")
    ours = dict(encoder.model.named_parameters())
    base = f"{model.base_model_prefix}."
    if inside := sorted(name for name in drawn if name.startswith(base) and "pooler" not in name):
        raise Wrong(f"drawn inside the encoder: {inside[:3]}")
    with torch.no_grad():
        for name in drawn:
            their[name].data = ours[name].detach().clone()
    model.config.output_hidden_states = False  # asks for more, changes no logit; a value that makes no sense cannot run
    for module in (model, *model.modules()):
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0  # saves memory, changes no number, refuses most lengths
    return model.eval()


def _from_folder(made: Made, drawn: set[str]) -> tuple[nn.Module, set[str]]:
    """(the model, names of what was drawn); as it was saved where transformers does not take the folder."""
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            model, told = AutoModelForSequenceClassification.from_pretrained(
                made.folder, num_labels=made.outputs, ignore_mismatched_sizes=True, dtype=torch.float32,
                output_loading_info=True)
    except Exception:  # an attention that is not installed, for example
        return made.model, drawn
    return model, {*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])}


def _tokens(made: Made, length: int, folder: Path | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """Each text alone, as the checkpoint's own tokenizer gives it: no padding, nothing in common with others."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder or made.folder)
    for text in made.texts:
        yield dict(tokenizer(*text, truncation=True, max_length=length, return_tensors="pt"))


def _alone(made: Made, model: nn.Module, inputs: Sequence[dict], names: Sequence[str], data: Encoded) -> torch.Tensor:
    """(texts, outputs) logits, one text after the other; padded like ours where padding leaks in every library."""
    if made.kind in LEAKING:
        return _batch(model, data)
    with torch.no_grad():
        given = ({name: one[name] for name in names} | {"attention_mask": torch.ones_like(one["input_ids"])}
                 for one in inputs)
        return torch.cat([model(**one, return_dict=True).logits for one in given])


def _held_against_plain(made: Made, encoder: Encoder, chance: random.Random) -> float:
    """The largest deviation of all ways of running it, of the outputs' scale. Raises Wrong, and what models raise."""
    length = encoder.max_length(ASKED)
    if made.room and (wanted := min(ASKED, made.room, encoder.tokenizer.model_max_length)) != length:
        raise Wrong(f"reads {length} tokens; has room for {wanted}")
    data = encode(Examples(made.texts, np.zeros(len(made.texts))), encoder.tokenizer, length)
    plain, inputs = _plain(made, encoder), list(_tokens(made, length))
    for text, ours, theirs in zip(made.texts, data.inputs["input_ids"], inputs, strict=True):
        if ours != theirs["input_ids"][0].tolist():
            raise Wrong(f"other tokens of {text[0][:40]!r}: {ours[:9]}; the checkpoint's own: "
                        f"{theirs['input_ids'][0][:9].tolist()}")
    names = [name for name in inputs[0] if name in data.inputs]
    if left := [name for name in inputs[0] if name == "token_type_ids" and name not in names and inputs[0][name].any()]:
        said = any("sentences are not numbered" in note for note in encoder.notes)
        if not said and made.kind not in ("distilbert", "mpnet"):
            raise Wrong(f"{left} left out, and it was not said")
    order = list(made.order or range(made.outputs))
    worst = _apart(_batch(encoder.model, data), _alone(made, plain, inputs, names, data)[:, order])
    _check_grams(encoder, data)
    if made.ending == "read" and chance.random() < HANDED_OUT:
        worst = max(worst, _handed_out(made, encoder, data, length))
    mask = _mask(encoder, chance)
    with torch.no_grad():
        for matrix in mask.layout.matrices:
            full = mask.layout.block.expand(mask.kept[matrix.name], matrix.m, matrix.n)
            plain.get_submodule(matrix.name).weight.mul_(torch.from_numpy(full))
    wanted = _alone(made, plain, inputs, names, data)[:, order]
    with torch.inference_mode():
        for kernels in (True, False):
            small = compact(encoder.model, mask, kernels=kernels)
            worst = max(worst, _apart(_batch(small, data), wanted))
            if kernels and unpad_(small):
                worst = max(worst, _apart(_batch(small, data), wanted))
    return worst


def _batch(model: nn.Module, data: Encoded) -> torch.Tensor:
    """(texts, outputs) logits of all texts at once, padded."""
    inputs, _ = data.batch(range(len(data)))
    with torch.no_grad():
        return model.eval()(**inputs, return_dict=True).logits


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, of the outputs' scale; inf where one is no number."""
    if ours.shape != theirs.shape:
        raise Wrong(f"outputs {tuple(ours.shape)}; plain: {tuple(theirs.shape)}")
    apart = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))
    return apart if apart == apart else float("inf")


def _handed_out(made: Made, encoder: Encoder, data: Encoded, length: int) -> float:
    """How far a folder as `export --to hf` writes it answers from this encoder, by transformers alone."""
    from transformers import AutoModelForSequenceClassification

    out = made.folder / "out"
    encoder.model.save_pretrained(out)
    tokenizers.save(encoder.tokenizer, encoder.folder, out)
    inputs = list(_tokens(made, length, out))
    for ours, theirs in zip(data.inputs["input_ids"], inputs, strict=True):
        if ours != theirs["input_ids"][0].tolist():
            raise Wrong(f"handed out, it reads {theirs['input_ids'][0][:9].tolist()} where it read {ours[:9]}")
    plain = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    return _apart(_batch(encoder.model, data), _alone(made, plain, inputs, list(inputs[0]), data))


def _check_grams(encoder: Encoder, data: Encoded) -> None:
    """Of all tokens and nothing else, in every matrix that is given some. Raises Wrong."""
    inputs, _ = data.batch(range(len(data)))
    grams = repair.collect(encoder.model, encoder.linears, [inputs])
    tokens = int(data.lengths.sum())
    for matrix in encoder.matrices:
        gram = grams.get(matrix.name)
        if gram is None:
            raise Wrong(f"no Gram of {matrix.name}")
        if gram.count % tokens or not gram.count or not torch.isfinite(gram.products).all():  # ALBERT shares layers
            raise Wrong(f"Gram of {matrix.name}: {gram.count} tokens, there are {tokens}")


def _mask(encoder: Encoder, chance: random.Random) -> BlockMask:
    """Random blocks of a shape that fits, with heads, neurons, rows and columns that are gone."""
    layout = _layout(encoder, chance)
    draw, share, kept = np.random.default_rng(chance.randrange(2**32)), chance.choice((0.1, 0.3, 0.6, 0.9)), {}
    for matrix in layout.matrices:
        keep = draw.random(layout.block.grid(matrix.m, matrix.n)) < share
        for axis in (0, 1):
            gone = draw.random(keep.shape[axis]) < chance.choice((0.0, 0.0, 0.2, 0.5))
            keep[(gone, slice(None)) if axis == 0 else (slice(None), gone)] = False
        heads = getattr(encoder.model.config, "num_attention_heads", 1)
        if matrix.type == "value" and chance.random() < 0.5 and len(keep) % heads == 0:
            keep[: len(keep) // heads] = False
        kept[matrix.name] = keep if chance.random() > 0.05 else np.zeros_like(keep)
    return BlockMask(layout, kept)


def _layout(encoder: Encoder, chance: random.Random) -> Layout:
    for text in chance.sample(SHAPES, len(SHAPES)):
        try:
            return encoder.layout(BlockShape.parse(text))
        except InputError:
            continue
    return encoder.layout(BlockShape.parse("1x1"))


@contextmanager
def quietly() -> Iterator[None]:
    """Without what transformers says of each folder."""
    import logging
    import warnings

    with warnings.catch_warnings(), encoders.quiet():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
