"""The sizes of an encoder that its memory depends on, and what is left of them when heads and neurons are taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prune_core.cutting.blocks import BlockShape, Layout, Matrix
from prune_core.cutting.masks import BlockMask
from prune_core.latency.strips import layers_of, living

DEPTH = 64  # of a head, where it is not known how many heads there are


@dataclass(frozen=True)
class Layer:
    """One layer of BERT's build: heads of `width` rows together, `inner` neurons."""

    hidden: int
    heads: int
    width: int
    inner: int

    @property
    def weights(self) -> int:
        """All of its parameters: four matrices of attention, two of the neurons, their biases, two norms."""
        return (4 * self.hidden * self.width + 3 * self.width + self.hidden
                + 2 * self.hidden * self.inner + self.inner + self.hidden + 4 * self.hidden)


@dataclass(frozen=True)
class Sizes:
    """An encoder with its head: its layers, the head's parameters, those of the embeddings, and whether these train."""

    layers: tuple[Layer, ...]
    head: int
    embeddings: int
    train_embeddings: bool = False

    @property
    def hidden(self) -> int:
        return self.layers[0].hidden

    @property
    def weights(self) -> int:
        """All parameters."""
        return sum(layer.weights for layer in self.layers) + self.head + self.embeddings

    @property
    def trained(self) -> int:
        """Parameters with a gradient."""
        return self.weights - (0 if self.train_embeddings else self.embeddings)


def of(layout: Layout, heads: int | None, outputs: int = 2, train_embeddings: bool = False) -> Sizes:
    """The sizes of the encoder that `layout` divides; its head is taken as BERT's: a square matrix, then the outputs.

    What is neither in a layer nor in the head counts as embeddings.
    """
    layers = tuple(_layer(parts, heads) for parts in layers_of(layout))
    hidden = layers[0].hidden
    head = hidden * hidden + hidden + hidden * outputs + outputs
    embeddings = layout.model_weights - head - sum(layer.weights for layer in layers)
    return Sizes(layers, head, max(0, embeddings), train_embeddings)


def _layer(parts: dict[str, Matrix], heads: int | None) -> Layer:
    value, inner = parts["value"], parts["intermediate"]
    return Layer(value.n, heads or max(1, value.m // DEPTH), value.m, inner.m)


def smaller(sizes: Sizes, mask: BlockMask, heads: int | None) -> Sizes:
    """The same with the heads and neurons taken out that `mask` leaves nothing of; strips inside a matrix stay."""
    live, layers = living(mask, heads), []
    for layer, parts in zip(sizes.layers, layers_of(mask.layout), strict=True):
        width = int(live[parts["value"].name].rows.sum())
        depth = layer.width // layer.heads
        layers.append(replace(layer, width=width, heads=max(1, width // depth),
                              inner=int(live[parts["intermediate"].name].rows.sum())))
    return replace(sizes, layers=tuple(layers))


KINDS = ("query", "key", "value", "attention.output", "intermediate", "output")


def layout_of(layers: Sequence[Layer], block: BlockShape, model_weights: int) -> Layout:
    """A layout of these layers under names as BERT has them. Raises InputError where `block` does not divide them."""
    matrices = []
    for number, layer in enumerate(layers):
        sides = ((layer.width, layer.hidden),) * 3 + ((layer.hidden, layer.width), (layer.inner, layer.hidden),
                                                     (layer.hidden, layer.inner))
        for kind, (m, n), name in zip(KINDS, sides, _NAMES, strict=True):
            matrices.append(Matrix(f"bert.encoder.layer.{number}.{name}", number, kind, m, n))
    return Layout.of(matrices, block, model_weights)


_NAMES = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
          "intermediate.dense", "output.dense")
