"""Settings that were scored exactly, kept with the run: what they take, what they score, how long they are to run."""

from __future__ import annotations

from prune_core.cutting.cuts import Cut
from prune_core.cutting.masks import BlockMask
from prune_core.evaluation.dev_score import DevScore
from prune_core.evaluation.speedup import usual_profile
from prune_core.execution import paths
from prune_core.execution.paths import Choice
from prune_core.latency.executed import executed_as
from prune_core.latency.profile import Batch, dtype_of
from prune_core.precision.formats import Formats, parse
from prune_core.precision.storage import Storage, zeros
from prune_core.runs import tried
from prune_core.runs.run import Run
from prune_core.runs.tried import Tried

USUAL = Batch(32, 128)


def keep(run: Run, stage: str, cut: Cut, mask: BlockMask, score: DevScore, stored: Storage, choice: Choice) -> None:
    """Once for each setting and arithmetic; where nothing can be written it is not kept."""
    formats = parse(cut.formats, run.layout)
    said = cut.to_json() | {"by": cut.ranking, "repaired": cut.repaired, "formats": str(formats)}
    tried.keep(run, stage, Tried(said, score.scores[run.metric], score.low, score.high, score.examples, stored.bytes,
                                 stored.encoder.stored, zeros(mask, formats), choice.dtype,
                                 predicted_ms(run, mask, formats, choice)))


def predicted_ms(run: Run, mask: BlockMask, formats: Formats, choice: Choice) -> float | None:
    """Of a batch as USUAL, by the path that executes it; None where no profile has that, or nothing executes it.

    Activations in 8 bits run in int8, also where a score imitates them. A pattern saves no time.
    """
    profile = usual_profile()
    if profile is None or formats.activations == "tensor" or paths.on_gpu(choice.path):
        return None
    dtype, ran = "int8" if executed_as(formats) == "int8" else choice.dtype, choice.path.removesuffix(", by modules")
    alike = [path for path in profile.paths if dtype_of(path) == dtype]
    return min((profile.path_ms(path, mask, USUAL, run.heads) for path in ([ran] if ran in alike else alike)),
               default=None)
