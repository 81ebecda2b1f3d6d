"""Random checkpoints: every published flavour of the known architectures, in a size that takes milliseconds."""

from __future__ import annotations

import random

import torch
from torch import nn

KINDS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet", "deberta", "deberta-v2",
         "albert")
OTHERS = ("megatron-bert", "ernie", "data2vec-text", "roberta-prelayernorm", "xlm-roberta-xl", "convbert", "esm",
          "mobilebert", "rembert", "roformer", "squeezebert", "nystromformer", "layoutlm", "lilt", "ibert", "fnet",
          "funnel", "modernbert", "big_bird", "gpt2", "mra", "roc_bert", "flaubert")
FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm", "xlm-roberta-xl",
                "mpnet", "ibert", "lilt", "esm")  # count positions from the padding
CAUSAL = ("bert", "roberta", "xlm-roberta", "camembert", "electra")  # may be saved as decoders
ACTIVATIONS = ("gelu", "gelu", "gelu", "gelu_new", "gelu_python", "gelu_fast", "gelu_10", "gelu_pytorch_tanh", "relu",
               "tanh", "silu", "quick_gelu", "mish", "relu2", "relu6", "swish", "sigmoid", "leaky_relu", "linear",
               "hardswish", "laplace", "sqrtsoftplus", "gelu_accurate")


def settings_of(kind: str, chance: random.Random, rows: int, pad: int | None, room: int) -> dict:
    """What its config says. `rows`: of the embeddings; `room`: the most tokens that it is to read."""
    heads = chance.choice((1, 2, 2, 3, 4, 6))
    width, layers = heads * chance.choice((4, 6, 8, 16)), chance.choice((1, 2, 2, 3))
    inner = chance.choice((16, 24, 48, 64, 96, 37))
    act = chance.choice(ACTIVATIONS)
    common = {"vocab_size": rows, "pad_token_id": pad, "initializer_range": chance.choice((0.05, 0.15, 0.25)),
              "max_position_embeddings": room + ((pad or 0) + 1 if kind in FROM_PADDING else 0)}
    if kind == "distilbert":
        return common | {"dim": width, "n_layers": layers, "n_heads": heads, "hidden_dim": inner, "activation": act,
                         "dropout": chance.choice((0.0, 0.1, 0.5)), "sinusoidal_pos_embds": chance.random() < 0.3,
                         "attention_dropout": chance.choice((0.0, 0.1))}
    asked = common | {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
                      "intermediate_size": inner, "hidden_act": act,
                      "layer_norm_eps": chance.choice((1e-12, 1e-7, 1e-5, 1e-3)),
                      "hidden_dropout_prob": chance.choice((0.0, 0.1, 0.5)),
                      "attention_probs_dropout_prob": chance.choice((0.0, 0.1)),
                      "chunk_size_feed_forward": chance.choice((0, 0, 0, 1, 3, 8)),
                      "type_vocab_size": chance.choice((1, 2, 2, 3, 4)),
                      "classifier_dropout": chance.choice((None, 0.1)),
                      "output_hidden_states": chance.random() < 0.05, "tie_word_embeddings": chance.random() < 0.7}
    if kind in CAUSAL and chance.random() < 0.2:
        asked["is_decoder"] = True
    own = {"electra": _electra, "albert": _albert, "mpnet": _mpnet, "deberta": _deberta, "deberta-v2": _deberta_v2}
    return asked | (own[kind](chance, asked) if kind in own else {})


def _electra(chance: random.Random, asked: dict) -> dict:
    return {"embedding_size": chance.choice((8, 16, asked["hidden_size"])), "summary_type": "first",
            "summary_activation": chance.choice(("gelu", "tanh"))}


def _albert(chance: random.Random, asked: dict) -> dict:
    layers, inside = chance.choice(((1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (3, 1))), chance.choice((1, 1, 2, 3))
    return {"embedding_size": chance.choice((8, 16, asked["hidden_size"])), "num_hidden_layers": layers[0],
            "num_hidden_groups": layers[1], "inner_group_num": inside, "classifier_dropout_prob": 0.1}


def _mpnet(chance: random.Random, asked: dict) -> dict:
    """Counts positions from 1, whatever the padding is; buckets of relative positions."""
    return {"relative_attention_num_buckets": chance.choice((32, 64)),
            "max_position_embeddings": asked["max_position_embeddings"] - (asked["pad_token_id"] or 0) + 1}


def _deberta(chance: random.Random, asked: dict) -> dict:
    relative = chance.random() < 0.8
    return {"relative_attention": relative,
            "pos_att_type": chance.choice((["c2p", "p2c"], "c2p|p2c", ["c2p"], [], None)),
            "max_relative_positions": chance.choice((-1, 8, 64)), "position_biased_input": chance.random() < 0.5,
            "talking_head": chance.random() < 0.1, "type_vocab_size": chance.choice((0, 0, 2))}


def _deberta_v2(chance: random.Random, asked: dict) -> dict:
    relative = chance.random() < 0.85
    own = {"relative_attention": relative, "share_att_key": chance.random() < 0.6,
           "pos_att_type": chance.choice((["p2c", "c2p"], "p2c|c2p", ["c2p"], ["p2c"], [], None)),
           "position_buckets": chance.choice((-1, 4, 16, 256)), "max_relative_positions": chance.choice((-1, 8, 64)),
           "norm_rel_ebd": chance.choice(("none", "layer_norm")), "position_biased_input": chance.random() < 0.4,
           "type_vocab_size": chance.choice((0, 0, 0, 2))}
    if chance.random() < 0.3:
        own |= {"conv_kernel_size": chance.choice((3, 5)), "conv_act": chance.choice(("gelu", "tanh")),
                "conv_groups": 1}
    if chance.random() < 0.2:
        own["embedding_size"] = chance.choice((8, 24))
    if chance.random() < 0.2:
        own["attention_head_size"] = asked["hidden_size"] // asked["num_attention_heads"]
    return own


def other_settings(kind: str, chance: random.Random, rows: int, pad: int | None, room: int) -> dict:
    """Of an architecture outside the list: as it comes, and small."""
    asked = {"vocab_size": rows, "pad_token_id": pad, "hidden_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.15, "type_vocab_size": 2,
             "max_position_embeddings": room + ((pad or 0) + 1 if kind in FROM_PADDING else 0)}
    own = {"mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32,
                          "num_feedforward_networks": 2},
           "esm": {"mask_token_id": 4, "position_embedding_type": chance.choice(("absolute", "rotary")),
                   "emb_layer_norm_before": False, "token_dropout": chance.random() < 0.5},
           "convbert": {"embedding_size": 32, "head_ratio": chance.choice((1, 2)), "conv_kernel_size": 5},
           "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
           "squeezebert": {"embedding_size": 32, **{f"{part}_groups": chance.choice((1, 4)) for part in (
               "q", "k", "v", "post_attention", "intermediate", "output")}},
           "nystromformer": {"num_landmarks": 4, "segment_means_seq_len": 16},
           "funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48},
           "roc_bert": {"pronunciation_vocab_size": rows, "shape_vocab_size": rows, "pronunciation_embed_dim": 8,
                        "shape_embed_dim": 8},
           "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": room, "bos_token_id": 0, "eos_token_id": 0},
           "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
           "modernbert": {"bos_token_id": 0, "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0,
                          "global_attn_every_n_layers": 2, "local_attention": 8},
           "big_bird": {"attention_type": chance.choice(("original_full", "block_sparse"))}}
    asked |= own.get(kind, {})
    return {key: value for key, value in asked.items() if kind != "funnel" or key != "num_hidden_layers"}


@torch.no_grad()
def model_of(kind: str, settings: dict, outputs: int, seed: int, labels: dict | None = None) -> nn.Module:
    """Random weights of these settings; norms and biases that do something."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    more = {} if labels is None else {"id2label": labels, "label2id": {label: at for at, label in labels.items()}}
    config = AutoConfig.for_model(kind, **settings, num_labels=outputs, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
