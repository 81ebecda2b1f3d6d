"""Scores while a run trains: of weights that are kept, with their surface, and quick ones in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch

from prune_core.cutting.answers import GRID, SurfacePoint
from prune_core.cutting.blocks import Layout
from prune_core.cutting.masks import BlockMask, mask_at_sparsity
from prune_core.evaluation import dev_score
from prune_core.methods.qat import Quantization
from prune_core.models.encoders import Encoder
from prune_core.precision.formats import Formats
from prune_core.precision.storage import kept_weights
from prune_core.runs.snapshots import Snapshot, Working
from prune_core.runs.stages import DENSE
from prune_core.tasks import metrics
from prune_core.training.data import EncodedTask
from prune_core.training.forecast import Spent
from prune_core.training.placement import ALONE, Placement


class Scorer:
    """Scores the encoder as it is, or cut by norm; writes down in `spent` how long it takes."""

    def __init__(self, encoder: Encoder, data: EncodedTask, layout: Layout, scope: str, spent: Spent,
                 formats: Formats, placed: Placement = ALONE):
        self.encoder, self.data, self.layout, self.scope, self.spent = encoder, data, layout, scope, spent
        self.placed = placed
        self.formats = formats  # whose patterns are cut of all that is not dense
        self._running: Callable[[], AbstractContextManager] = contextlib.nullcontext  # inside, the model is scored

    def keep_(self, phase: str, step: int, name: str, sparsity: float, quantization: Quantization | None = None,
              **now) -> Iterator[Snapshot | Working]:
        """Round what was trained to bf16, in which it is kept, and score exactly that, cut at `sparsity`.

        `quantization`: puts its weights onto their levels, which are kept in fp32, and runs while it is scored. Comes
        with work in progress, last with the Snapshot, which holds `now` as well; the encoder is left as it is kept.
        """
        exact = quantization.settle_() if quantization else {}
        rounded = {name: p.detach().to(torch.bfloat16) for name, p in self.encoder.trainable().items()} | exact
        self.encoder.load_(rounded)
        self._running = quantization.running if quantization else contextlib.nullcontext
        norms = self.encoder.norms(self.layout.block)
        mask = mask_at_sparsity(norms, self.layout, sparsity, self.scope)
        surface = yield from self._surface(name, norms)
        yield Working(name, "scoring", len(GRID), len(GRID))
        sentences = sum(map(len, self.data.dev.values()))
        with self.spent.scoring(sentences), dev_score.masked(self.encoder.weights, mask), self._running():
            told = dev_score.dev_score(self.encoder.model, self.data.task, self.data.dev, self.placed)
        self._running = contextlib.nullcontext
        if quantization:
            now |= {"residuals": quantization.residuals()}
        point = point_of(mask, self.formats if name != DENSE else Formats())
        yield Snapshot(phase, step, saved=name, point=point, norms=norms, scores=told.scores,
                       examples=told.examples, surface=surface, surface_examples=len(self.data.surface),
                       weights=lambda: rounded, **now)

    def look(self) -> dict:
        """For a Snapshot in between: norms, and the headline score of the model as it is, on the surface's examples."""
        return {"norms": self.encoder.norms(self.layout.block), "examples": len(self.data.surface),
                "scores": {self.data.task.metric: self._on_surface()[0]}}

    def _surface(self, name: str, norms: Mapping[str, np.ndarray]) -> Iterator[Working]:
        """Dev score with the mask at every sparsity of GRID; equal masks are scored once. Returns SurfacePoints."""
        points: list[SurfacePoint] = []
        known: dict[str, tuple[float, float, float]] = {}
        for done, wanted in enumerate(GRID):
            yield Working(name, "scoring the surface", done, len(GRID))
            mask = mask_at_sparsity(norms, self.layout, wanted, self.scope)
            if (key := mask.digest()) not in known:
                with dev_score.masked(self.encoder.weights, mask):
                    known[key] = self._on_surface()
            points.append(SurfacePoint(wanted, mask.sparsity, *known[key]))
        return points

    def _on_surface(self) -> tuple[float, float, float]:
        """(headline score, low, high) on the surface's examples, of the model as it is."""
        task, labels = self.data.task, self.data.surface.labels
        with self.spent.scoring(len(labels)), self._running():
            outputs = dev_score.outputs(self.encoder.model, self.data.surface, self.placed)
            score = metrics.score(task, outputs, labels)[task.metrics[0]]
            return score, *metrics.interval(task, outputs, labels)


def point_of(mask: BlockMask, formats: Formats) -> dict[str, float]:
    """What blocks and patterns keep, as a Snapshot's `point` has it; `blocks` where there is a pattern."""
    point = {key: getattr(mask, key) for key in ("sparsity", "compression_encoder", "compression_model")}
    if not any(one.pattern for one in formats.weights):
        return point
    layout, of = mask.layout, formats.of(mask.layout)
    kept = sum(kept_weights(matrix, mask, of[matrix.name])[0] for matrix in layout.matrices)
    cut = layout.encoder_weights - kept
    return {"sparsity": cut / layout.encoder_weights, "compression_encoder": layout.encoder_weights / max(1, kept),
            "compression_model": layout.model_weights / (layout.model_weights - cut), "blocks": mask.sparsity}
