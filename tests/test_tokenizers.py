"""A tokenizer against its model: ids, padding, token types, the longest input, unknown words."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.models import encoders, tokenizers
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples
from prune_core.training import session


def checkpoint(folder, architecture="bert", tokenizer=None, **changes):
    """A tiny checkpoint whose config is changed before it is made."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(**tiny.model(architecture).config.to_dict() | changes)
    with encoders.quiet():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        (tokenizer or tiny.tokenizer(architecture)).save_pretrained(folder)
    return folder


def of(texts) -> Examples:
    return Examples([tuple(text) for text in texts], np.zeros(len(texts), np.int64))


LONGEST = {"bert": 48, "distilbert": 48, "electra": 48, "albert": 48, "deberta-v2": 48,
           "roberta": 47, "xlm-roberta": 47, "camembert": 47, "mpnet": 46}  # MPNet's padding is always id 1


@pytest.mark.parametrize("architecture", LONGEST)
def test_only_some_kinds_count_positions_from_the_padding(tmp_path, architecture):
    encoder = encoders.load(str(tiny.checkpoint(tmp_path / "m", architecture)), 2)
    encoder.tokenizer.model_max_length = 10**9
    longest = encoder.max_length(500)
    assert longest == LONGEST[architecture] and encoder.max_length(9) == 9
    tokenizers.check_longest(encoder.tokenizer, encoder.model, longest, "here")
    if architecture != "deberta-v2":  # whose positions are relative
        with pytest.raises(InputError, match="here: it cannot read 4[789] tokens"):
            tokenizers.check_longest(encoder.tokenizer, encoder.model, longest + 1, "here")


@pytest.mark.parametrize("architecture,pad", [("bert", 3), ("roberta", 3), ("bert", 20)])
def test_padding_is_the_models(tmp_path, architecture, pad):
    """Positions from the padding on, and nothing of a batch depends on what fills it up."""
    encoder = encoders.load(str(checkpoint(tmp_path / "m", architecture, pad_token_id=pad)), 2)
    assert f"the model with {pad}" in " ".join(encoder.notes)
    assert encoder.max_length(500) == (48 - pad - 1 if architecture == "roberta" else 48)
    texts = of([("the film was fine",), ("a dull soup and a very cold film here today",)])
    encoded = encoding.encode(texts, encoder.tokenizer, 40)
    inputs, _ = encoded.batch([0, 1])
    fill = 0 if pad == 20 else pad  # an ordinary word is never made the padding
    assert inputs["input_ids"][0, -1] == fill == encoder.tokenizer.pad_token_id
    assert inputs["attention_mask"][0].sum() == encoded.lengths[0]
    alone, _ = encoded.batch([0])
    with torch.no_grad():
        both, one = encoder.model.eval()(**inputs).logits[0], encoder.model(**alone).logits[0]
    assert torch.allclose(both, one, atol=1e-5)


def test_a_tokenizer_without_padding(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    encoder = encoders.load(str(checkpoint(tmp_path / "m", tokenizer=tokenizer)), 2)
    assert "has no padding" in " ".join(encoder.notes) and encoder.tokenizer.pad_token_id == 0


def test_a_word_that_the_model_pads_with_stays_a_word_where_the_tokenizer_is_handed_out(tmp_path):
    from transformers import AutoTokenizer

    word = tiny.FILLER[1]  # 'a', which others hold
    encoder = encoders.load(str(checkpoint(tmp_path / "m", pad_token_id=tiny.VOCABULARY[word])), 2)
    encoder.tokenizer.save_pretrained(tmp_path / "out")
    assert "no mark of padding" in " ".join(encoder.notes)
    for text in (f"{word} film was {word}nd fine", "warm and stale"):
        again = AutoTokenizer.from_pretrained(tmp_path / "out")
        assert again(text)["input_ids"] == encoder.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("architecture,room,taken", [
    ("bert", 2, True), ("bert", 1, False), ("roberta", 1, False), ("roberta", 2, True), ("deberta-v2", 0, False),
    ("electra", 2, True), ("albert", 1, False)])
def test_token_types_go_to_models_with_room_for_them(tmp_path, architecture, room, taken):
    folder = checkpoint(tmp_path / "m", architecture, tiny.tokenizer("bert"), type_vocab_size=room)
    encoder = encoders.load(str(folder), 2)
    encoded = encoding.encode(of([("the film", "was fine")]), encoder.tokenizer, 40)
    assert ("token_type_ids" in encoded.inputs) == taken == (not any("sentences are not numbered" in note
                                                                      for note in encoder.notes))
    inputs, _ = encoded.batch([0])
    assert encoder.model(**inputs).logits.shape == (1, 2)


def test_that_sentences_are_not_numbered_holds_for_what_is_handed_out(tmp_path):
    """A folder with vocab.txt alone, as BERT's tokenizer reads it."""
    from transformers import AutoTokenizer

    folder = checkpoint(tmp_path / "m", type_vocab_size=1)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "vocab.txt").write_text("\n".join(tiny.VOCABULARY))
    encoders.load(str(folder), 2).tokenizer.save_pretrained(tmp_path / "out")
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path / "out")("the film", "was fine")


def test_what_a_tokenizer_in_python_is_handed_out_as_reads_the_same(inputs, tmp_path):
    from transformers import AutoTokenizer

    encoder = encoders.load(str(inputs / "bertweet"), 2)
    tokenizers.save(encoder.tokenizer, encoder.folder, tmp_path / "out")
    text = "the film was lovely"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == encoder.tokenizer(text)["input_ids"]


def test_a_token_that_was_added_and_has_no_row_is_named(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["<thing>"])
    with pytest.raises(InputError, match=r"'<thing>' has none"):
        encoders.load(str(checkpoint(tmp_path / "m", tokenizer=tokenizer)), 2)


def test_rows_that_no_token_has_are_harmless(tmp_path):
    folder = checkpoint(tmp_path / "m", vocab_size=len(tiny.VOCABULARY) + 40)
    assert encoders.load(str(folder), 2).notes == ()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": "1.0"}', b"\x00\xff" * 50])
def test_a_damaged_tokenizer_is_one_line(tmp_path, tiny_model, content):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match="tokenizer") as error:
        encoders.load(str(folder), 2)
    assert "\n" not in str(error.value)


def test_padding_on_the_left_goes_to_the_right_and_stays_there_where_it_is_handed_out(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    encoder = encoders.load(str(folder), 2)
    assert "pads on the left" in encoder.notes[0]
    tokenizers.save(encoder.tokenizer, folder, tmp_path / "out")
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read(["the film", "a"], padding=True)["attention_mask"][1][-1] == 0 and read.padding_side == "right"


def test_settings_without_a_vocabulary_are_no_tokenizer(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer files; needed beside the weights"):
        encoders.load(str(folder), 2)


def test_a_tokenizer_of_a_newer_version_is_called_that(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["type"] = "WordPieceOfTomorrow"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="tokenizer.json has a part that this version of tokenizers does not know"):
        encoders.load(str(folder), 2)


@pytest.mark.parametrize("key,value,words", [
    ("model_max_length", "many", "model_max_length 'many'"), ("model_max_length", -1, "model_max_length -1"),
    ("model_max_length", 12.5, "12.5"), ("model_input_names", [], "gives no input_ids"),
    ("tokenizer_class", 5, "cannot be read")])
def test_settings_that_make_no_sense_are_one_line(tmp_path, tiny_model, key, value, words):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {key: value}))
    with pytest.raises(InputError, match="tokenizer") as error:
        encoders.load(str(folder), 2)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_too_few_tokens_for_a_word_of_each_sentence(tmp_path, tiny_data):
    folder = checkpoint(tmp_path / "m", max_position_embeddings=3)
    with pytest.raises(InputError, match="cut at 3 tokens; needed: at least 5"):
        session.start(tiny.settings(folder, tiny_data), tmp_path / "runs", "one", "command", tiny.silent)


def test_a_vocabulary_without_a_token_for_the_unknown(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(tiny.FILLER))
    with pytest.raises(InputError, match="cannot read a character that it does not know"):
        encoders.load(str(folder), 2)


@pytest.mark.parametrize("content", [b"", b"{}", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_sentencepiece_model_is_named(tmp_path, content):
    folder = checkpoint(tmp_path / "m", "deberta-v2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "spm.model").write_bytes(content)
    with pytest.raises(InputError, match="spm.model is no sentencepiece model|cannot be read"):
        encoders.load(str(folder), 2)


@pytest.fixture
def foreign(tmp_path, tiny_model):
    """A table whose words the tiny tokenizer does not know: all but a few."""
    rows = [f"das ist ein {'guter' if at % 2 else 'mieser'} film,{'ja' if at % 2 else 'nein'}" for at in range(60)]
    (tmp_path / "german.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return tiny.settings(tiny_model, tmp_path / "german.csv")


def test_words_that_nothing_knows_are_counted(tiny_model):
    tokenizer = encoders.load(str(tiny_model), 2).tokenizer
    assert tokenizers.unknown(tokenizer, of([("the film was fine",), ("die suppe was fine",)])) == 2 / 8
    assert tokenizers.unknown(tokenizer, of([("the film", "ein film")])) == 1 / 4
    assert tokenizers.unknown(tokenizer, of([("",)])) == 0


def test_a_tokenizer_that_does_not_know_the_words_is_refused_before_any_work(foreign, tmp_path):
    with pytest.raises(InputError, match=r"80% of the words .* --allow-unknown"):
        session.start(foreign, tmp_path / "runs", "one", "command", tiny.silent)
    assert not (tmp_path / "runs" / "one").exists()


def test_or_goes_on_where_that_is_asked_for_and_says_so(foreign, tmp_path, capsys):
    from dataclasses import replace

    session.start(replace(foreign, allow_unknown=True), tmp_path / "runs", "one", "command", tiny.silent)
    assert "80% of the words" in capsys.readouterr().err
    about = json.loads((tmp_path / "runs" / "one" / "run.json").read_text())
    assert any("80% of the words" in line for line in about["loading"])


def test_sentences_that_are_cut_shorter_than_asked_are_said(tmp_path, tiny_data, capsys):
    folder = checkpoint(tmp_path / "m", max_position_embeddings=8)
    session.start(tiny.settings(folder, tiny_data), tmp_path / "runs", "one", "command", tiny.silent)
    assert "sentences are cut at 8 tokens" in capsys.readouterr().err
