"""What a run needs of a device: the sizes that its memory depends on, and how it trains."""

from __future__ import annotations

from dataclasses import replace

from prune_core.hardware import sizes
from prune_core.hardware.memory import Way
from prune_core.hardware.sizes import Sizes
from prune_core.runs.config import PruneConfig
from prune_core.runs.run import Run


def sizes_of(run: Run) -> Sizes:
    """Those of its encoder, with the embeddings trained where it trains them."""
    return replace(sizes.of(run.layout, run.heads, run.outputs), train_embeddings=run.config.train_embeddings)


def way_of(config: PruneConfig) -> Way:
    """How it trains under the penalty and in retraining, on a CPU: plain attention, its own precision and teacher.

    ADMM keeps two copies of the prunable weights.
    """
    teacher = "mixed" if config.mixkd else "hidden" if config.distill_hidden else "outputs" if config.taught else ""
    precision = "bf16" if config.precision == "bf16" else "fp32"
    return Way("plain", precision, bool(config.dropout), teacher=teacher, copies=2 * (config.method == "admm"))
