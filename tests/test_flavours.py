"""Every published flavour of the tested architectures: plain transformers on masked weights, on every path, or refused.

The reference is always the model as transformers makes it, with the cut groups set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import tiny
import torch

from prune_core import InputError
from prune_core.cutting.blocks import BlockShape
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation import dev_score
from prune_core.execution import engines, native, unpadded
from prune_core.execution.compact import CompactLinear, compact
from prune_core.methods import repair
from prune_core.methods.surgeon import outputs_weigh
from prune_core.models import encoders
from prune_core.models.encoders import Encoder
from prune_core.tasks.encoding import Encoded

DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 6,
           "norm_rel_ebd": "layer_norm", "max_relative_positions": -1, "position_biased_input": False,
           "type_vocab_size": 0, "layer_norm_eps": 1e-7}
ACTIVATIONS = ("gelu_new", "relu", "tanh", "silu", "swish", "gelu_python", "quick_gelu", "gelu_10", "gelu_fast",
               "gelu_pytorch_tanh", "gelu_accurate", "mish", "relu6", "relu2", "leaky_relu", "prelu", "laplace",
               "linear", "hardswish", "sigmoid")
HEADS = (8, 12, 24, 48, 80)  # sizes of one
MORE = ("xlm-roberta", "camembert")  # RoBERTa under other names
ALL = (*tiny.ARCHITECTURES, *MORE)
OF_BERTS_KIND = ("bert", "roberta", "xlm-roberta", "camembert", "electra")


def flavour(architecture: str, **settings) -> object:
    told = ",".join(f"{word}={value}".replace(" ", "") for word, value in settings.items())
    return pytest.param(architecture, settings, id=f"{architecture}-{told}"[:90])


def matrix() -> list:
    wide = {"distilbert": "dim"}
    act = {"distilbert": "activation"}
    made = [flavour(a, **{act.get(a, "hidden_act"): name}) for a in ("bert", "distilbert", "albert", "mpnet")
            for name in ACTIVATIONS]
    made += [flavour(a, **{wide.get(a, "hidden_size"): 2 * size}) for a in ALL for size in HEADS]
    made += [flavour(a, chunk_size_feed_forward=4) for a in ALL]
    made += [flavour(a, is_decoder=True) for a in ALL]
    made += [flavour(a, **{word: value}) for a in ALL for word, value in (
        ("output_hidden_states", True), ("return_dict", False), ("torchscript", True), ("use_cache", True),
        ("hidden_dropout_prob", 0.3), ("classifier_dropout", 0.4), ("layer_norm_eps", 1e-3), ("num_labels", 1),
        ("num_labels", 5))]
    made += [flavour("albert", num_hidden_groups=2), flavour("albert", inner_group_num=2),
             flavour("albert", num_hidden_groups=2, inner_group_num=3, num_hidden_layers=4),
             flavour("albert", embedding_size=32), flavour("electra", embedding_size=32),
             flavour("electra", hidden_size=32, num_attention_heads=8, summary_activation="tanh"),
             flavour("distilbert", sinusoidal_pos_embds=True)]
    made += [flavour("deberta-v2", **DEBERTA | more) for more in (
        {}, {"share_att_key": False}, {"pos_att_type": "c2p|p2c"}, {"position_buckets": 256}, {"position_buckets": -1},
        {"conv_kernel_size": 3, "conv_act": "gelu"}, {"conv_kernel_size": 3, "conv_groups": 2}, {"type_vocab_size": 2},
        {"position_biased_input": True}, {"pos_att_type": ["c2p"]}, {"share_att_key": False, "pos_att_type": ["p2c"]},
        {"norm_rel_ebd": "none"}, {"max_relative_positions": 20}, {"pooler_hidden_act": "tanh", "pooler_dropout": 0.3})]
    return made + [flavour("deberta", **settings) for settings in (
        {}, {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False,
             "type_vocab_size": 0}, {"talking_head": True, "relative_attention": True, "pos_att_type": "c2p|p2c"})]


def made(architecture: str, settings: Mapping, seed: int = 0):
    """(the model as transformers has it, another of the same weights): no weight or bias is 0 or 1."""
    model = tiny.model(architecture, seed, **settings).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=draw)
                            + (name.endswith("weight") and "norm" in name.lower()))
    return model, copy.deepcopy(model)


def described(model, architecture: str) -> Encoder:
    return encoders.describe(architecture, model, tiny.tokenizer(architecture))


def some_mask(encoder: Encoder, seed: int = 0) -> BlockMask:
    """Six in ten groups of 4x1; of a layer also half of the value's rows, or columns after it, and neurons."""
    layout, random, kept = encoder.layout(BlockShape.parse("4x1")), np.random.default_rng(seed), {}
    for m in layout.matrices:
        full = np.ones((m.m // 4, m.n), bool)
        if m.type == "value":
            full[: len(full) // 2] = m.layer % 2 == 0
        if m.type == "attention.output":
            full[:, m.n // 2 :] = m.layer % 2 == 1
        if m.type == "intermediate":
            full[: len(full) // 2] = False
        if m.type == "output":
            full[:, 3 * m.n // 4 :] = False
        kept[m.name] = (random.random(full.shape) < 0.6) & full
    return BlockMask(layout, kept)


def cut_(model, mask: BlockMask) -> None:
    dev_score.apply_mask_({m.name: model.get_submodule(m.name).weight.data for m in mask.layout.matrices}, mask)


def batch(model, lengths=(12, 3, 8, 1, 9), types: bool | None = None) -> dict[str, torch.Tensor]:
    """Padded to 12 tokens; pairs with token types where the model has room for them."""
    lengths = torch.tensor(lengths)
    keep = torch.arange(int(lengths.max())) < lengths[:, None]
    draw = torch.Generator().manual_seed(int(lengths.sum()))
    inputs = {"input_ids": torch.randint(5, len(tiny.VOCABULARY), keep.shape, generator=draw) * keep,
              "attention_mask": keep.long()}
    room = (getattr(model.config, "type_vocab_size", 0) or 0) > 1 and model.config.model_type != "mpnet"
    if room if types is None else types:
        inputs["token_type_ids"] = (torch.arange(keep.shape[1]) > 3).long() * keep
    return inputs


def logits_of(out) -> torch.Tensor:
    """Of a model that still answers as its config says."""
    return out.logits if hasattr(out, "logits") else out[0]


def near(given: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("architecture, settings", matrix())
def test_every_way_to_run_it_is_the_plain_model(architecture, settings):
    plain, model = made(architecture, settings)
    encoder = described(model, architecture)
    mask, inputs = some_mask(encoder), batch(model)
    cut_(plain, mask)
    with torch.inference_mode():
        wanted = logits_of(plain(**inputs))
        assert wanted.std(0).max() > 1e-4  # what is told apart below is there
        for kernels in (True, False):
            near(compact(model, mask, kernels=kernels)(**inputs).logits, wanted)
        small = compact(model, mask)
        causal = settings.get("is_decoder") and architecture in OF_BERTS_KIND
        known = architecture in unpadded.PLACELESS and not causal and native.library() is not None
        assert unpadded.unpad_(small) == known
        near(small(**inputs).logits, wanted)
        rows = {name: [ids[:count].tolist() for ids, count in zip(values, inputs["attention_mask"].sum(1), strict=True)]
                for name, values in inputs.items() if name != "attention_mask"}
        near(torch.from_numpy(dev_score.outputs(small, Encoded(rows, np.zeros(len(wanted)), 0))), wanted)
    with dev_score.masked(encoder.weights, mask), torch.inference_mode():
        for way in ("eager", "sdpa") if model._supports_sdpa else ("eager",):
            model.set_attn_implementation(way)
            near(model(**inputs).logits, wanted)
    assert len(model(**inputs, output_hidden_states=True).hidden_states) > 1


@pytest.mark.parametrize("architecture, settings", [
    flavour("deberta-v2", **DEBERTA),
    flavour("deberta-v2", **DEBERTA | {"share_att_key": False, "conv_kernel_size": 3}),
    flavour("bert", is_decoder=True, chunk_size_feed_forward=4),
    flavour("albert", num_hidden_groups=2, inner_group_num=2, num_hidden_layers=4, hidden_act="gelu_new")])
def test_the_exported_graph_is_the_plain_model(architecture, settings, tmp_path):
    plain, model = made(architecture, settings)
    mask = some_mask(described(model, architecture))
    cut_(plain, mask)
    inputs = batch(model)
    small = compact(model, mask, kernels=False)
    path = engines.to_onnx(small, tmp_path / "model.onnx", types="token_type_ids" in inputs)
    run = engines.session("onnxruntime", path, 1)
    alone = {name: value[2:3, :8] for name, value in inputs.items()}  # of another length, so no length is written down
    with torch.inference_mode():
        near(torch.from_numpy(run(inputs)), plain(**inputs).logits)
        near(torch.from_numpy(run(alone)), plain(**alone).logits)


# ---------------------------------------------------------------- tokens, and tables of positions


@pytest.mark.parametrize("lengths", [(12, 5, 9), (12,), (7,)])  # the table of positions has 2 * 6 rows
@pytest.mark.parametrize("shared", [True, False])
def test_gram_matrices_are_of_tokens_alone(lengths, shared):
    """Against the hidden states that transformers gives: query, key and value see those, and nothing else."""
    model, _ = made("deberta-v2", DEBERTA | {"share_att_key": shared})
    encoder, inputs = described(model, "deberta-v2"), batch(model, lengths)
    grams = repair.collect(model, encoder.linears, [inputs, inputs])
    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states
    keep = inputs["attention_mask"].bool()
    for layer, state in enumerate(states[:-1]):
        rows = state[keep]
        for part in ("query_proj", "key_proj", "value_proj"):
            gram = grams[f"deberta.encoder.layer.{layer}.attention.self.{part}"]
            assert gram.count == 2 * sum(lengths)
            torch.testing.assert_close(gram.products, 2 * rows.T @ rows, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(gram.total, 2 * rows.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ALL)
def test_one_sentence_gives_what_it_gives_in_company(architecture):
    """Gram matrices and the surgeon's weights, for a batch of one."""
    model, _ = made(architecture, {"num_labels": 1} | (DEBERTA if architecture == "deberta-v2" else {}))
    encoder, inputs = described(model, architecture), batch(model, (12, 9))
    alone = [{name: value[row : row + 1, :length] for name, value in inputs.items()}
             for row, length in ((0, 12), (1, 9))]
    two, one = (repair.collect(model, encoder.linears, given) for given in ([inputs], alone))
    of_two, of_one = (outputs_weigh(model, encoder.linears, given) for given in ([inputs], alone))
    for name in encoder.linears:
        assert two[name].count == one[name].count
        torch.testing.assert_close(one[name].products, two[name].products, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(of_one[name], of_two[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("lengths", [(12,), (12, 4)])
def test_the_surgeon_weighs_outputs_of_tokens_alone(lengths):
    """Against hooks on the first call of every layer in a pass, which is the one on tokens."""
    model, _ = made("deberta-v2", DEBERTA | {"num_labels": 1})
    encoder, inputs = described(model, "deberta-v2"), batch(model, lengths)
    given = outputs_weigh(model, encoder.linears, [inputs])
    first: dict[str, torch.Tensor] = {}

    def remember(name):
        return lambda _module, _inputs, out: (first.setdefault(name, out), None)[1]

    hooks = [linear.register_forward_hook(remember(name)) for name, linear in encoder.linears.items()]
    logits = model(**inputs).logits
    gradients = torch.autograd.grad(logits.sum(), list(first.values()))
    for hook in hooks:
        hook.remove()
    for name, gradient in zip(first, gradients, strict=True):
        wanted = (gradient[inputs["attention_mask"].bool()] ** 2).sum(0) / sum(lengths)
        torch.testing.assert_close(given[name], wanted.sqrt(), rtol=1e-4, atol=1e-7)


def test_columns_of_query_and_key_stay_for_positions():
    """Positions are projected by the same layers, in full width and with all heads."""
    model, _ = made("deberta-v2", DEBERTA)
    small = compact(model, some_mask(described(model, "deberta-v2")))
    sizes = {(layer.out_features, layer.in_features) for name, layer in small.named_modules()
             if isinstance(layer, CompactLinear) and name.endswith(("query_proj", "key_proj", "value_proj"))}
    assert sizes == {(32, 32)}


def test_the_layers_of_alberts_groups_are_told_apart():
    model, _ = made("albert", {"num_hidden_groups": 2, "inner_group_num": 3, "num_hidden_layers": 4})
    layers = [m.layer for m in described(model, "albert").matrices]
    assert layers == [number for number in range(6) for _ in range(6)]


@pytest.mark.parametrize("block", ["1x4", "4x4", "4x1", "1xall", "allx1"])
def test_a_layer_all_of_whose_heads_are_gone_gives_its_bias(block):
    """Half of them have no value, the others no output; of the one that stays nothing is kept."""
    plain, model = made("bert", {"hidden_size": 80, "num_attention_heads": 4, "intermediate_size": 96})
    layout, kept = described(model, "bert").layout(BlockShape.parse(block)), {}
    for m in layout.matrices:
        full = np.ones((m.m, m.n), bool)
        if m.type == "value":
            full[:20] = False
        if m.type == "attention.output":
            full[:, 20:] = False
        rows, cols = layout.block.sides(m.m, m.n)
        kept[m.name] = full.reshape(m.m // rows, rows, m.n // cols, cols).any((1, 3))
    mask, inputs = BlockMask(layout, kept), batch(model)
    cut_(plain, mask)
    small = compact(model, mask)
    with torch.inference_mode():
        wanted = plain(**inputs).logits
        near(small(**inputs).logits, wanted)
        unpadded.unpad_(small)
        near(small(**inputs).logits, wanted)


# ---------------------------------------------------------------- a whole run


@pytest.mark.parametrize("changes", [
    {"method": "group-lasso", "distill": 0.5, "distill_hidden": 0.1, "mixkd": True, "ranking": "surgeon"},
    {"method": "surgeon", "scope": "global"}, {"method": "admm-closed"}, {"method": "admm"}],
    ids=lambda changes: changes["method"])
def test_deberta_as_published_goes_through_a_whole_run(changes, tmp_path, tiny_data):
    from prune_core.cutting.cuts import Cut
    from prune_core.evaluation import exact, sensitivity
    from prune_core.evaluation.bench import Bench
    from prune_core.methods import rankings

    folder = tiny.checkpoint(tmp_path / "model", "deberta-v2", **DEBERTA)
    run = tiny.make_run(tiny.settings(folder, tiny_data, block="8x1", **changes), tmp_path / "runs")
    assert run.result is not None
    if changes["method"] != "group-lasso":
        return
    bench = Bench(run, "dense")
    for name in rankings.recordable():
        values = rankings.named(name, bench.grams(), bench.train).of(bench.encoder, run.layout)
        assert all(np.isfinite(value).all() and (value >= 0).all() for value in values.values())
    cuts = [Cut("matrix", share=0.5, repaired=repaired) for repaired in (False, True)]
    assert all(0 <= exact.evaluate(run, "dense", cut)["score"] <= 1 for cut in cuts)
    assert len(list(sensitivity.sensitivity(run, "dense", ("layer",), (0.5,)))) == 2


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("architecture, settings, words", [
    ("bert", {"is_decoder": True, "add_cross_attention": True}, "add_cross_attention"),
    ("roberta", {"pruned_heads": {0: [1]}}, "pruned_heads"),
    ("electra", {"position_embedding_type": "relative_key_query"}, "relative_key_query"),
    ("electra", {"num_attention_heads": 3}, "num_attention_heads 3"),
    ("albert", {"num_attention_heads": 5}, "num_attention_heads 5")])
def test_what_is_not_known_here_is_refused_in_one_line(architecture, settings, words):
    with pytest.raises(InputError, match=words) as refused:
        described(made(architecture, settings)[0], architecture)
    assert "\n" not in str(refused.value) and "needed:" in str(refused.value)


def test_a_way_of_attention_that_has_no_gradient_here_is_replaced():
    model, _ = made("bert", {})
    model.config._attn_implementation = "flex_attention"
    assert described(model, "bert").model.config._attn_implementation == "sdpa"
