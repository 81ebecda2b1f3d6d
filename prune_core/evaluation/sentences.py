"""What the model of a run says of a sentence, as more and more is cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation.dev_score import masked
from prune_core.evaluation.weights import encoder_of
from prune_core.models.devices import CPU
from prune_core.runs.run import Run
from prune_core.tasks import encoding
from prune_core.tasks.glue import Examples


def predict(run: Run, stage: str, texts: Sequence[tuple[str, ...]], sparsities: Sequence[float],
            scope: str | None = None, ranking: str = "norm", device: torch.device = CPU) -> dict:
    """How sure the model is of every label, for each text, as more and more is cut. What `predict --json` prints.

    `probabilities`: (sparsities, texts, labels); with one output (regression) the output itself. Raises InputError.
    """
    encoder = encoder_of(run, stage, run.outputs)
    scope, ranked = scope or run.config.scope, run.ranking(stage, ranking)
    length = encoder.max_length(run.config.max_length)
    given = encoding.encode(Examples(texts, np.zeros(len(texts), np.int64)), encoder.tokenizer, length)
    encoder.model.to(device)
    inputs, _ = given.batch(range(len(texts)), device)
    probabilities, reached = [], []
    for sparsity in sparsities:
        mask = mask_at_sparsity(ranked, run.layout, sparsity, scope)
        with torch.inference_mode(), masked(encoder.weights, mask):
            logits = encoder.model.eval()(**inputs).logits.float()
        probabilities.append((logits.softmax(-1) if run.outputs > 1 else logits).tolist())
        reached.append(mask.sparsity)
    return {"run": run.name, "phase": str(stage), "scope": scope, "by": ranking, "labels": run.labels or [run.metric],
            "sparsities": reached, "probabilities": probabilities}
