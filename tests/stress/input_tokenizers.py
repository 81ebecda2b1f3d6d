"""Random tokenizers in every kind of file, of the same few words, and the ways in which their files go bad."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

WORDS = ("fine", "lovely", "warm", "sharp", "dull", "cold", "stale", "weak", "the", "a", "film", "soup", "was", "and",
         "very", "here", "today", "one", "two", "three")
BRACKETS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ANGLES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
OF_FILES = {"bert": ("vocab.txt",), "electra": ("vocab.txt",), "distilbert": ("vocab.txt",), "mpnet": ("vocab.txt",),
            "roberta": ("merges", "codes"), "deberta": ("merges",), "deberta-v2": ("spm.model",),
            "albert": ("spiece.model",), "xlm-roberta": ("sentencepiece.bpe.model",),
            "camembert": ("sentencepiece.bpe.model",)}
FORMS = ("word", "piece", "unigram", "bpe")  # within tokenizer.json


def sentences(count: int, chance: random.Random, pair: bool, most: int = 12) -> list[tuple[str, ...]]:
    """Texts of known words; one is longer than any model here reads, one is a single word."""
    def one(words: int) -> str:
        return " ".join(chance.choice(WORDS) for _ in range(words))

    lengths = [1, 90, *(chance.randint(2, most) for _ in range(count - 2))]
    return [(one(length), one(chance.randint(1, most))) if pair else (one(length),) for length in lengths]


def write(folder: Path, kind: str, chance: random.Random, form: str | None = None) -> str:
    """Tokenizer files for a model of this kind in a folder that holds at least its config.json; says what they are."""
    form = form or chance.choice((*FORMS, *FORMS, *OF_FILES.get(kind, ())))
    if form == "vocab.txt":
        return _vocab_txt(folder, chance)
    if form == "merges":
        return _merges(folder, kind, chance)
    if form == "codes":
        return _codes(folder)
    if form.endswith(".model"):
        return _sentencepiece(folder, form, kind)
    return _json(folder, kind, chance, form)


def _shuffled(chance: random.Random, special: Sequence[str], more: Sequence[str] = ()) -> dict[str, int]:
    """Word -> id; specials first, last, or anywhere."""
    words, special = [*WORDS, *more], list(special)
    place = chance.choice(("first", "first", "last", "anywhere"))
    if chance.random() < 0.4:
        chance.shuffle(special)
    listed = [*special, *words] if place == "first" else [*words, *special]
    if place == "anywhere":
        chance.shuffle(listed)
    return {word: at for at, word in enumerate(dict.fromkeys(listed))}


def _json(folder: Path, kind: str, chance: random.Random, form: str) -> str:
    """tokenizer.json of one of four models, with settings baked in as people have them."""
    from tokenizers import pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = chance.choice((BRACKETS, ANGLES))
    made, words = _model(form, special, chance)
    if form in ("word", "piece"):
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    numbered = chance.random() < 0.7
    second = "$B:1 {0}:1" if numbered else "$B {0}"
    made.post_processor = processors.TemplateProcessing(
        single=f"{special[2]} $A {special[3]}", pair=f"{special[2]} $A {special[3]} {second.format(special[3])}",
        special_tokens=[(special[2], words[special[2]]), (special[3], words[special[3]])])
    baked = chance.choice(("", "", "", "truncation", "padding", "left", "fixed", "both"))
    if baked in ("truncation", "both"):
        made.enable_truncation(chance.choice((5, 8, 512)))
    if baked in ("padding", "left", "fixed", "both"):
        made.enable_padding(direction="left" if baked == "left" else "right", pad_id=words[special[0]],
                            pad_token=special[0], length=64 if baked == "fixed" else None)
    more = {"model_input_names": ["input_ids", *(["token_type_ids"] if chance.random() < 0.5 else []),
                                  "attention_mask"],
            "model_max_length": chance.choice((16, 64, 512, 10**30)),
            "padding_side": chance.choice(("right", "right", "left")),
            "truncation_side": chance.choice(("right", "right", "left"))}
    if chance.random() < 0.1:
        del more["model_max_length"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(ROLES, special, strict=True)), **more)
    added = chance.random() < 0.2
    if added:
        tokenizer.add_tokens(["<url>", "<user>"], special_tokens=chance.random() < 0.5)
    tokenizer.save_pretrained(folder)
    return f"tokenizer.json ({form}{', added tokens' if added else ''}{baked and ', ' + baked})"


def _model(form: str, special: Sequence[str], chance: random.Random):
    """(tokenizers.Tokenizer, word -> id)"""
    from tokenizers import Tokenizer, models, pre_tokenizers

    if form == "unigram":
        words = _shuffled(chance, special, [f"▁{word}" for word in WORDS])
        made = Tokenizer(models.Unigram([(word, -float(at) / 10) for word, at in words.items()], words[special[1]]))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    elif form == "bpe":
        merges, more = _merged(lambda word: "Ġ" + word)
        words = _shuffled(chance, special, more)
        made = Tokenizer(models.BPE(words, merges, unk_token=special[1]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif form == "piece":
        words = _shuffled(chance, special, [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"])
        made = Tokenizer(models.WordPiece(words, unk_token=special[1]))
    else:
        words = _shuffled(chance, special)
        made = Tokenizer(models.WordLevel(words, unk_token=special[1]))
    return made, words


def _merged(spelt: Callable[[str], str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(merges that build every word from its letters, all that they make)"""
    merges, parts = {}, {}
    for word in WORDS:
        letters = spelt(word)
        parts |= dict.fromkeys(letters)
        for at in range(1, len(letters)):
            merges[letters[:at], letters[at]] = None
            parts[letters[: at + 1]] = None
    return list(merges), list(parts)


def _vocab_txt(folder: Path, chance: random.Random) -> str:
    words = _shuffled(chance, BRACKETS, [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if chance.random() < 0.5:
        return "vocab.txt"
    about = {"do_lower_case": chance.random() < 0.5, "model_max_length": chance.choice((32, 512)),
             **dict(zip(ROLES, BRACKETS, strict=True))}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return "vocab.txt and its settings"


def _merges(folder: Path, kind: str, chance: random.Random) -> str:
    """vocab.json and merges.txt, as RoBERTa's kind and the first DeBERTa have them."""
    merges, more = _merged(lambda word: "Ġ" + word)
    bare, parts = _merged(str)
    special = ANGLES if kind == "roberta" else BRACKETS
    words = {word: at for at, word in enumerate(dict.fromkeys([*special, *more, *parts]))}
    if chance.random() < 0.3:
        words = _shuffled(chance, special, [*more, *parts])
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in [*merges, *bare]), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return "vocab.json and merges.txt"


def _codes(folder: Path) -> str:
    """vocab.txt and bpe.codes of BERTweet, whose tokenizer is written in Python."""
    merges = [(f"{word[:at]} {word[at]}" + ("</w>" if at == len(word) - 1 else "")) for word in WORDS
              for at in range(1, len(word))]
    (folder / "vocab.txt").write_text("".join(f"{word} 9\n" for word in WORDS), encoding="utf-8")
    (folder / "bpe.codes").write_text("".join(f"{merge} 9\n" for merge in dict.fromkeys(merges)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertweetTokenizer", "model_max_length": 64}')
    return "vocab.txt and bpe.codes"


def _sentencepiece(folder: Path, form: str, kind: str) -> str:
    """A unigram model as the sentencepiece library writes it: protocol buffers, by hand."""
    first = {"deberta-v2": ("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
             "albert": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")}
    special = first.get(kind, ("<unk>", "<s>", "</s>"))
    unknown = next(at for at, word in enumerate(special) if "unk" in word.lower())
    pieces = [(word, 2 if at == unknown else 3) for at, word in enumerate(special)]
    pieces += [("▁" + word, 1) for word in WORDS] + [(letter, 1) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    content = b"".join(_field(1, _field(1, word.encode()) + b"\x15" + struct.pack("<f", -at / 10) + _field(3, sort))
                       for at, (word, sort) in enumerate(pieces))
    trained = _field(3, 1) + _field(40, unknown)
    if kind not in first:
        trained += _field(41, 1) + _field(42, 2) + _field(43, 2**64 - 1)
    (folder / form).write_bytes(content + _field(2, trained) + _field(3, _field(1, b"nmt_nfkc") + _field(3, 1)))
    return form


def _field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer: a whole number, or bytes with their length."""
    def varint(one: int) -> bytes:
        return bytes([one & 127 | 128]) + varint(one >> 7) if one > 127 else bytes([one])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


# ---------------------------------------------------------------- what goes bad


def broken(folder: Path, chance: random.Random) -> Iterator[tuple[str, str]]:
    """(what, how it must end: 'refused', or 'either' where it may be harmless) after each change to the files, once."""
    files = sorted(path for path in folder.iterdir() if path.name in (
        "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "spm.model", "spiece.model",
        "sentencepiece.bpe.model"))
    file = chance.choice(files)
    yield _damaged(file, chance) if chance.random() < 0.5 or file.suffix != ".json" else _edited(file, chance)


def _damaged(file: Path, chance: random.Random) -> tuple[str, str]:
    content = file.read_bytes()
    what, bad = chance.choice((
        ("gone", None), ("empty", b""), ("cut off", content[: len(content) // 2]), ("noise", chance.randbytes(400)),
        ("a list", b"[]"), ("an object with nothing", b"{}"), ("null", b"null"), ("HTML", b"<html>404</html>"),
        ("a pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
        ("UTF-16", content.decode("utf-8", "replace").encode("utf-16")), ("CRLF", content.replace(b"\n", b"\r\n")),
        ("with a mark", b"\xef\xbb\xbf" + content), ("without its last byte", content[:-1])))
    file.unlink() if bad is None else file.write_bytes(bad)
    return f"{file.name}: {what}", "either"


# long: a list of changes
def _edited(file: Path, chance: random.Random) -> tuple[str, str]:
    about = json.loads(file.read_text(encoding="utf-8"))
    if file.name == "tokenizer_config.json":
        key, value = chance.choice((
            ("tokenizer_class", "NoSuchTokenizer"), ("tokenizer_class", "GPT2Tokenizer"), ("tokenizer_class", None),
            ("tokenizer_class", 5), ("model_max_length", 0), ("model_max_length", -1), ("model_max_length", 1),
            ("model_max_length", 2), ("model_max_length", 3), ("model_max_length", "many"), ("model_max_length", None),
            ("model_max_length", 12.5), ("model_max_length", 1e400), ("pad_token", None), ("pad_token", "nothing"),
            ("unk_token", None), ("unk_token", "nothing"), ("cls_token", None), ("sep_token", None),
            ("padding_side", "up"), ("truncation_side", 7), ("model_input_names", []),
            ("model_input_names", ["input_ids"]),
            ("model_input_names", "input_ids"),
            ("model_input_names", ["input_ids", "token_type_ids", "attention_mask", "pixels"]), ("pad_token", 0),
            ("added_tokens_decoder", {"999": {"content": "<new>", "special": True}}), ("added_tokens_decoder", []),
            ("auto_map", {"AutoTokenizer": ["x.Y", None]}), ("extra_special_tokens", ["<more>"]),
            ("extra_special_tokens", {"more_token": "<more>"}), ("do_lower_case", "yes"),
            ("mask_token", {"content": "x"})))
        about[key] = value
        what = f"{key} {value!r}"
    elif file.name == "tokenizer.json":
        what = _inner(about, chance)
    else:
        words = list(about)
        word = chance.choice(words)
        what, about[word] = chance.choice((("an id beyond", len(words) + 900), ("an id twice", 0), ("an id below", -1),
                                           ("an id that is text", "x"), ("an id that is null", None)))
        what = f"{word!r} has {what}"
    file.write_text(json.dumps(about), encoding="utf-8")
    return f"{file.name}: {what}"[:120], "either"


def _inner(about: dict, chance: random.Random) -> str:
    """One change inside tokenizer.json."""
    model = about["model"]
    vocabulary = model["vocab"]
    what = chance.choice(("model gone", "type", "ids", "post gone", "post other", "version", "unk", "added", "words",
                          "normalizer", "pre gone", "hole"))
    if what == "model gone":
        del about["model"]
    elif what == "type":
        model["type"] = chance.choice(("Nothing", None, "BPE", "WordLevel"))
    elif what == "ids" and isinstance(vocabulary, dict):
        vocabulary[chance.choice(list(vocabulary))] = chance.choice((0, 1, 10_000, -3, "x", 2**40))
    elif what == "hole" and isinstance(vocabulary, dict):
        vocabulary[f"far{chance.random()}"] = len(vocabulary) + chance.choice((1, 5, 400))
    elif what == "post gone":
        about["post_processor"] = None
    elif what == "post other":
        about["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 9999], "cls": ["[CLS]", 1]}
    elif what == "version":
        about["version"] = "9.0"
    elif what == "unk":
        model["unk_token"] = model["unk_id"] = None
    elif what == "added":
        about["added_tokens"] = chance.choice(([], None, [{"id": 5}]))
    elif what == "words" and isinstance(vocabulary, dict):
        for word in list(vocabulary):
            if word.lstrip("Ġ") in WORDS[::2]:
                vocabulary[f"x{word}x"] = vocabulary.pop(word)
    elif what == "normalizer":
        about["normalizer"] = {"type": chance.choice(("Lowercase", "NFKC", "Nothing"))}
    else:
        about["pre_tokenizer"] = None
    return what
