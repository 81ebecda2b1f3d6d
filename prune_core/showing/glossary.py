"""The lesson's words: what each means, and the step in which it first stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """`shown`: as it stands on the page of its step, where that is not the word itself."""

    word: str
    step: int
    meaning: str
    shown: str = ""


WORDS = (
    Word("weight", 1, "one number of a trained layer. Training sets it, and computing an answer multiplies by it."),
    Word("pruning", 1, "setting weights to zero and leaving them out."),
    Word("cut", 1, "to set all weights of a block to zero."),
    Word("block", 1, "a small rectangle of weights that is cut or kept as one."),
    Word("strip", 1, "a block that is one weight wide, in one direction: 64x1 is 64 rows of one column."),
    Word("tile", 1, "a block that is as high as it is wide."),
    Word("norm", 1, "the size of a block: the square root of the sum of its squared weights."),
    Word("sparsity", 1, "the share of weights that are zero."),
    Word("encoder", 1, "the part of a language model that turns words into numbers which stand for their meaning in "
                       "context. Nearly all weights that are pruned here belong to it."),
    Word("penalty", 2, "what is added to the error while a model trains, so that it prefers small blocks."),
    Word("group Lasso", 2, "the penalty λ × sum of norms. It makes whole blocks exactly zero."),
    Word("λ", 2, "lambda: the price of a norm; higher means that more blocks reach zero."),
    Word("proximal step", 2, "after a training step, every norm is shortened by the same amount, and stops at zero."),
    Word("milestone", 3, "a moment of training at which the factors γ are computed anew."),
    Word("reweighting", 3, "giving each block a price of its own: small blocks pay more, large ones less."),
    Word("γ", 3, "gamma: the factor of a block, 1 / (norm + ε)."),
    Word("snapshot", 3, "a recorded moment of a training, with the norm of every block. Explore plays one after the "
                        "other."),
    Word("threshold", 4, "a limit on the norm: blocks below it are cut."),
    Word("MiniLM", 4, "a small language model: 6 layers, 22 million weights. It answers in milliseconds."),
    Word("SST-2", 4, "a task of the GLUE benchmark: is a sentence of a film review positive or negative?"),
    Word("retrained", 4, "trained on after the cut, so that what is left makes up for what is gone."),
    Word("dense", 4, "with nothing cut."),
    Word("dev set", 4, "sentences with known answers that are kept apart from training, to score a model on."),
    Word("speedup", 5, "how many times as fast, and over what: here over the dense product on the same machine."),
    Word("token", 5, "a word or a piece of a word, as the model reads it."),
    Word("epoch", 6, "one pass over all training examples."),
    Word("gradient", 6, "in which direction, and how strongly, a weight should move to make the loss smaller.",
         "gradient"),
    Word("Adam", 6, "the usual way to take training steps: it divides each gradient by its usual size."),
    Word("learning rate", 6, "how far a weight moves in one step of training."),
    Word("compression", 7, "dense weights / kept weights, of the matrices that are pruned: 5x keeps a fifth."),
    Word("score", 7, "how well a model does on the dev set: accuracy, or for MRPC the F1 score."),
    Word("surgeon", 7, "a method that removes the blocks whose loss would cost least, estimated from second "
                       "derivatives, and moves the other weights to make up for it."),
    Word("distilled", 7, "retrained to give the dense model's answers as well as the right ones."),
    Word("seed", 7, "the number that chance starts from. Another seed gives another training, and a score a little "
                    "higher or lower."),
    Word("quantization", 8, "keeping each weight in fewer bits."),
    Word("level", 8, "one of the values that a weight can have then."),
    Word("scale", 8, "the distance between two levels. A level is a whole number times the scale."),
    Word("N:M pattern", 8, "at most N of every M weights next to one another stay: 2:4 keeps two of four.",
         "Of every M weights keep N"),
    Word("index", 8, "what is stored beside the weights that are kept: where they stand.", "index"),
)


def first_in(step: int) -> tuple[Word, ...]:
    """Those that first stand in this step."""
    return tuple(word for word in WORDS if word.step == step)
