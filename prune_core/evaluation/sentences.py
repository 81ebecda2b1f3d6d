"""What the model of a run says of a sentence, as more and more is cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prune_core.cutting.masks import mask_at_sparsity
from prune_core.evaluation.bench import encoder_of
from prune_core.evaluation.dev_score import masked
from prune_core.runs.run import Run


def predict(run: Run, phase: str, texts: Sequence[tuple[str, ...]], sparsities: Sequence[float], scope: str | None = None, by: str = "norm") -> dict:
    """How sure the model is of every label, for each text, as more and more is cut. What `predict --json` prints. Raises InputError.

    `probabilities`: (sparsities, texts, labels); with one output (regression) the output itself.
    """
    encoder = encoder_of(run, phase, run.outputs)
    scope, ranking = scope or run.config.scope, run.ranking(phase, by)
    columns = [list(column) for column in zip(*texts, strict=True)]
    inputs = encoder.tokenizer(*columns, truncation=True, max_length=encoder.max_length(run.config.max_length), padding=True, return_tensors="pt")
    found, reached = [], []
    for sparsity in sparsities:
        mask = mask_at_sparsity(ranking, run.layout, sparsity, scope)
        with torch.inference_mode(), masked(encoder.weights, mask):
            logits = encoder.model.eval()(**inputs).logits.float()
        found.append((logits.softmax(-1) if run.outputs > 1 else logits).tolist())
        reached.append(mask.sparsity)
    return {"run": run.name, "phase": phase, "scope": scope, "by": by, "labels": run.labels or [run.metric],
            "sparsities": reached, "probabilities": found}
