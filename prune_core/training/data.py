"""A task's sentences, encoded for training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prune_core.models.encoders import Encoder
from prune_core.runs.config import PruneConfig
from prune_core.tasks import encoding
from prune_core.tasks.encoding import Encoded
from prune_core.tasks.glue import Task, TaskData


@dataclass(frozen=True)
class EncodedTask:
    """A task as token ids: what to train on, what to score on."""

    task: Task
    train: Encoded
    dev: Mapping[str, Encoded]  # in full, for scores
    surface: Encoded  # of the headline split, at most `surface_examples`, for the surface and in between

    @classmethod
    def of(cls, data: TaskData, encoder: Encoder, config: PruneConfig) -> EncodedTask:
        """Limit and encode; only the examples that are used are encoded."""
        length = encoder.max_length(config.max_length)
        data = data.limited(config.train_examples, config.dev_examples)
        dev = {name: encoding.encode(examples, encoder.tokenizer, length) for name, examples in data.dev.items()}
        surface = data.main_dev.some(config.surface_examples)
        whole = len(surface) == len(data.main_dev)
        return cls(data.task, encoding.encode(data.train, encoder.tokenizer, length), dev,
                   dev[data.task.dev[0]] if whole else encoding.encode(surface, encoder.tokenizer, length))
