"""A checkpoint's tokenizer against its model, before any work: its files, ids, token types, padding, known words."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from prune_core import InputError
from prune_core.models.checkpoints import first_line, refuse_pointer
from prune_core.tasks.glue import Examples

Notes = list[str]
MOST_UNKNOWN = 0.2  # share of the task's words that a tokenizer may not know
_ASKED = 2000  # sentences behind that share
_MARK = re.compile(r"[\[<].*[\]>]")  # [PAD], <pad>, <|endoftext|>
_USUAL_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model",
                "tokenizer.model")


def load(folder: Path, where: str):
    """The tokenizer of a checkpoint folder. Raises InputError: none there, or it cannot be read."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in (*_USUAL_FILES, "tokenizer_config.json")):
        _refuse_missing(folder, where)
    for path in folder.iterdir():  # one would be read as a vocabulary of three words
        if path.is_file() and path.suffix in (".json", ".txt", ".model", ".codes"):
            refuse_pointer(path, where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise a dozen kinds for damaged files
        if not any((folder / name).is_file() for name in _USUAL_FILES):
            _refuse_missing(folder, where)
        newer = "tokenizer.json has a part that this version of tokenizers does not know"
        why = _damaged(folder) or (newer if "untagged enum" in str(error) else first_line(error))
        raise InputError(f"{where}: its tokenizer cannot be read: {why}; "
                         "needed: tokenizer.json, or vocab.txt") from None
    names = set(getattr(tokenizer, "vocab_files_names", {}).values())
    # Without its files transformers makes an empty one, to which every word is unknown
    if names and not any((folder / name).is_file() for name in (*names, *_USUAL_FILES)):
        _refuse_missing(folder, where)
    return tokenizer


def save(tokenizer, source: Path | None, folder: Path) -> None:
    """Write it so that transformers reads it as it is here; `source`: the folder that it was read from."""
    tokenizer.save_pretrained(folder)
    if source and not tokenizer.is_fast:  # BERTweet's does not read again what it writes: the files as they came
        for name in set(tokenizer.vocab_files_names.values()):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)


def _damaged(folder: Path) -> str:
    """Which of its files is damaged, where one can be told; ''."""
    for path in sorted(folder.iterdir()):
        named = path.name.startswith(("tokenizer", "special_tokens", "added_tokens", "vocab"))
        if path.suffix == ".model" and path.name in _USUAL_FILES and not _is_sentencepiece(path):
            return f"{path.name} is no sentencepiece model, it is damaged or cut off"
        if path.suffix == ".json" and named and path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                return f"{path.name}: {first_line(error)}"
            if not isinstance(content, dict):
                return f"{path.name} holds a {type(content).__name__}, no object"
    return ""


def _is_sentencepiece(path: Path) -> bool:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size() > 0
    except (OSError, RuntimeError):
        return False


def _refuse_missing(folder: Path, where: str) -> None:
    raise InputError(f"{where}: no tokenizer files; needed beside the weights: tokenizer.json, or vocab.txt and the "
                     "like; copy them from the checkpoint that it was trained from")


def fit(tokenizer, model: nn.Module, where: str) -> Notes:
    """Make the tokenizer give what the model takes, and say what that changed. Raises InputError where it cannot."""
    rows = model.get_input_embeddings().weight.shape[0]
    vocabulary, given = tokenizer.get_vocab(), _read_text(tokenizer, where)
    largest = max([*vocabulary.values(), *given], default=-1)
    if largest >= rows:
        named = [(at, word) for word, at in vocabulary.items()] + [(at, f"token {at}") for at in given]
        first = min(one for one in named if one[0] >= rows)
        raise InputError(f"{where}: the tokenizer has {largest + 1:,} tokens, the model's embeddings {rows:,} rows, so "
                         f"{first[1]!r} has none; resize the embeddings (model.resize_token_embeddings) and train "
                         "them, or give the tokenizer that belongs to the model")
    notes = _padding(tokenizer, model) + _types(tokenizer, model) + _side(tokenizer)
    if (known := len(tokenizer)) < 0.5 * rows and rows - known > 1000:
        notes.append(f"the tokenizer knows {known:,} tokens, the model {rows:,}: is it the model's own?")
    return notes


def _read_text(tokenizer, where: str) -> list[int]:
    """The ids of a pair with a character that no vocabulary has. Raises InputError where it cannot, or gives no ids.

    Sets its longest input as a whole number.
    """
    longest = tokenizer.model_max_length
    if (isinstance(longest, bool) or not isinstance(longest, int | float) or longest < 1
            or longest % 1 and longest < 1e9):
        raise InputError(f"{where}: its tokenizer says model_max_length {longest!r}; needed: a number of tokens, in "
                         "tokenizer_config.json")
    tokenizer.model_max_length = int(min(longest, 10**30))
    try:
        given = tokenizer("a \U000f1234", "b", verbose=False)
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"{where}: its tokenizer cannot read a character that it does not know: {first_line(error)}; "
                         "needed: a token for the unknown, in the vocabulary and in its settings") from None
    if "input_ids" not in given or "input_ids" not in tokenizer.model_input_names:
        raise InputError(f"{where}: its tokenizer gives no input_ids; needed: input_ids among model_input_names in "
                         "tokenizer_config.json")
    return given["input_ids"]


def _padding(tokenizer, model: nn.Module) -> Notes:
    """The model's own padding id where the tokenizer has another or none; but never an ordinary word.

    Attention does not see padding, whatever stands there; a word that is called padding would be cut out of texts.
    """
    own, its = getattr(model.config, "pad_token_id", None), tokenizer.pad_token_id
    if its is not None and own in (None, its):
        return []
    pad = 0 if own is None else own
    token = tokenizer.convert_ids_to_tokens(pad)
    if token is None or not (pad in tokenizer.added_tokens_decoder or _MARK.fullmatch(token)):
        kept = "no padding" if its is None else f"id {its}"
        return [f"the tokenizer pads with {kept}, the model with {pad} ({token!r}), which is no mark of padding: "
                "left as it is, attention does not see it"]
    tokenizer.pad_token = token
    if its is None:
        return [f"the tokenizer has no padding; filled up with {token!r}, which attention does not see"]
    return [f"the tokenizer pads with id {its}, the model with {own} ({token!r}): padded as the model has it"]


def _side(tokenizer) -> Notes:
    """Pad on the right, so that a sentence has the same positions in every batch, here and where it is handed out."""
    if tokenizer.padding_side == "right":
        return []
    tokenizer.padding_side = "right"
    return ["the tokenizer pads on the left, which moves a sentence's positions; padded on the right, as alone"]


def _types(tokenizer, model: nn.Module) -> Notes:
    """Which of a pair a token belongs to is told to models that have room for it, and to no others."""
    names = list(tokenizer.model_input_names)
    if "token_type_ids" not in names:
        return []
    room = getattr(model.config, "type_vocab_size", 0) or 0
    taken = "token_type_ids" in inspect.signature(model.forward).parameters and room
    given = tokenizer("a", "a", verbose=False).get("token_type_ids", [0])
    if taken and max(given) < room:
        return []
    tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is written of it says so too
    if not max(given):
        return []
    return [f"the tokenizer numbers both sentences of a pair, the model has room for {room} kinds: "
            "sentences are not numbered"]


def room(model: nn.Module, wanted: int) -> int:
    """The most tokens that a model's table of positions holds; `wanted` where it has none.

    RoBERTa's and MPNet's kinds count positions from the padding on, so they hold that many fewer.
    """
    base = model.base_model
    embeddings = getattr(base, "embeddings", base)
    table = getattr(embeddings, "position_embeddings", None)
    rows = table.weight.shape[0] if isinstance(table, nn.Embedding) else None
    rows = rows or getattr(model.config, "max_position_embeddings", None) or wanted
    if rows < 0:  # counted by no table
        return wanted
    counted = hasattr(embeddings, "create_position_ids_from_inputs_embeds")
    return rows - (embeddings.padding_idx + 1) if counted else rows


def check_words(tokenizer, examples: Examples, where: str, allowed: bool = False) -> Notes:
    """Raises InputError where over MOST_UNKNOWN of these words are unknown to it, unless `allowed`; then it is said."""
    share = unknown(tokenizer, examples.some(_ASKED))
    if share <= MOST_UNKNOWN:
        return []
    told = f"{share:.0%} of the words of this task are unknown to the tokenizer"
    if not allowed:
        raise InputError(f"{where}: {told}; at most {MOST_UNKNOWN:.0%} make sense. Is it the model's own, and the "
                         "language that of the data? To go on all the same: --allow-unknown")
    return [told]


def unknown(tokenizer, examples: Examples) -> float:
    """Share of words, in these texts, of which the tokenizer knows a part or all not; 0 where it knows every letter."""
    if tokenizer.unk_token_id is None:
        return 0.0
    texts: Sequence[str] = [part for text in examples.texts for part in text]
    encoded = tokenizer(texts, truncation=True, max_length=512, add_special_tokens=False)
    lost = words = 0
    for number, ids in enumerate(encoded["input_ids"]):
        at = encoded.word_ids(number) if tokenizer.is_fast else range(len(ids))
        words += len(set(at))
        lost += len({word for word, token in zip(at, ids, strict=True) if token == tokenizer.unk_token_id})
    return lost / max(1, words)


@torch.no_grad()
def check_longest(tokenizer, model: nn.Module, length: int, where: str) -> None:
    """Let the model read as many tokens as it will meet, and its last token. Raises InputError where it cannot."""
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if length < least:
        raise InputError(f"{where}: sentences would be cut at {length} tokens; needed: at least {least}, for a word of "
                         "each and what the tokenizer puts around them (max_length, model_max_length of the tokenizer, "
                         "max_position_embeddings of config.json)")
    ids = torch.full((2, length), max(tokenizer.get_vocab().values()))
    try:
        logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except Exception as error:  # every architecture has its own way to fail
        raise InputError(f"{where}: it cannot read {length} tokens ({type(error).__name__}: {first_line(error)}); "
                         "config.json does not fit its tensors") from None
    if not torch.isfinite(logits).all():
        raise InputError(f"{where}: its outputs are not finite numbers; its weights are damaged")
