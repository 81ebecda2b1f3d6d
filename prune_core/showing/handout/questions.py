"""What students ask, and what a teacher can say; every number in it is computed from the pictures."""

from __future__ import annotations

from prune_core.cutting.blocks import BlockShape
from prune_core.runs import best
from prune_core.showing import bits, lesson
from prune_core.showing.exercises import FIRST_TASK, Known
from prune_core.tasks.glue_folders import FOLDERS


def asked(known: Known) -> list[tuple[str, str]]:
    """(question, answer), those that come first in a class first."""
    return [("And why not single weights?", _single(known)), *((question, answer) for question, answer in (
        ("Is the model smaller on the disk then?", _smaller()),
        ("Why not train a small model from the start?",
         "One can, and it is the honest rival: MiniLM is itself a small model. But a large one has already learned "
         "what the data of the task alone does not teach, and pruning keeps part of that. Which is better is "
         "measured, not argued: compare at equal time and equal bytes."),
        ("Which blocks should go: those with the smallest norms?",
         "It is the simplest ranking, not the best. A small weight on a large input matters, a large weight on a dead "
         "input does not. Explore ranks in other ways too, and the surgeon estimates what each block costs."),
        ("Why does the score fall only late?",
         "Because a trained model has more weights than its task needs, and retraining lets the rest make up for what "
         "is gone. Without retraining it falls soon, as in step 4."),
        ("Is the difference between two lines real?", _chance(known)),
        ("Who chooses λ?", "Nobody has to: Prunescope raises it while it trains, so that the share of zero blocks "
                           "follows a straight line to the share that was asked for."),
        ("Does it work for large language models?",
         "The idea does: blocks, patterns and bits are used there, mostly after training, as retraining is dear. "
         "Prunescope itself prunes encoders, which fit on a laptop."),
    ) if answer)]


def _single(known: Known) -> str:
    weight = lesson.small_matrix()
    single, strips = (lesson.cut_matrix(weight, BlockShape.parse(shape), 0.5).energy for shape in ("1x1", "4x1"))
    speed = {row["pattern"]: row["speedup"] for row in known.shapes["patterns"]}
    of = {name: value for name, value in speed.items() if name != "dense"}
    best_of = max(of, key=of.get)
    return (f"You are right that they lose least: at 50%, single weights keep {single:.1%} of the squared weights and "
            f"strips {strips:.1%}. But zeros that lie anywhere have to be looked up one by one. With "
            f"{known.shapes['sparsity']:.0%} zeros, single weights ran at {of.get('single weights', float('nan')):.2f} "
            f"times the speed of the dense product, {best_of} at {of[best_of]:.2f} times, on an "
            f"{known.shapes['machine']['cpu']}. "
            "If only the size on the disk counts, single weights are a good choice, as long as their index is counted.")


def _smaller() -> str:
    one = bits.stored("4/2:4")
    return (f"Only if it is stored so. A file of zeros is as long as any other. Packed, the kept blocks and a bit for "
            f"each block are enough; for single weights the index weighs more: 2:4 in 4 bits saves "
            f"{bits.removed(one, False):.1%} without it and {bits.removed(one, True):.1%} with it.")


def _chance(known: Known) -> str:
    results = [one for one in best.of(known.of(FIRST_TASK) + known.of("sst2")) if one.uncertain]
    if not results:
        return ""
    by_task = {one.run.task: one.uncertain for one in results}
    told = " and ".join(f"about ±{100 * half:.1f} points on {FOLDERS[task]}" for task, half in by_task.items())
    return (f"Often not. With so few dev sentences a score is known to {told}, and each line is one training: another "
            "seed gives another line.")
