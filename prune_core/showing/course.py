"""The lesson's steps: how long each takes, alone and in a class, and what it says in two sentences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step of Learn. `in_class`: its minutes of a plan for 45; 0 for what is left for home."""

    number: int
    title: str
    minutes: int  # for a person who reads, tries and answers
    in_class: int
    idea: str  # as the handout has it
    do: str  # what a teacher does before the class
    ask: str  # and asks it, before anything is moved

    @property
    def name(self) -> str:
        """'3. Reweighting'"""
        return f"{self.number}. {self.title}"


STEPS = (
    Step(1, "Blocks", 5, 5,
         "A trained layer is a matrix of weights. A block is a small rectangle of them that is cut or kept as one; "
         "its norm says how large it is. The blocks with the smallest norms go first.",
         "Start with strips at 50%. Change the shape to single weights, then to tiles, and read the share kept aloud.",
         "At the same sparsity, which shape keeps the most of the matrix?"),
    Step(2, "The penalty", 4, 4,
         "Training minimises the error plus λ times the sum of all norms. In every step each norm is shortened by the "
         "same amount, and stops at zero.",
         "Raise λ slowly until the lower line lies on zero.",
         "What happens to the upper line meanwhile?"),
    Step(3, "Reweighting", 6, 6,
         "At a milestone each block gets a factor of its own, γ = 1 / (norm + ε). Small blocks then pay more and large "
         "ones less.",
         "Show λ = 0.1, then 0.5. Then press Play on Explore.",
         "Which method finds the four blocks that matter, and what does it cost them?"),
    Step(4, "A sentence", 8, 8,
         "A threshold cuts every block whose norm lies below it. Here it cuts a real model that was not retrained "
         "afterwards, so it forgets soon.",
         "Let the class choose a sentence, and vote where the answer will change. Then cut.",
         "Which kind of sentence does the model forget first?"),
    Step(5, "Speed", 5, 5,
         "A zero saves time only if the computer can skip it without looking. So the pattern of the zeros matters more "
         "than their number.",
         "Cover the bars of single weights and strips, and let the class guess them.",
         "80% of the numbers are zero. How many times as fast is that?"),
    Step(6, "Three faults", 9, 0,
         "The published code of this method has three faults: factors that are never refreshed, a penalty that trains "
         "nothing, and a penalty that Adam cancels.",
         "For home, or for a second lesson: one fault for each third of the class.",
         "How would you notice, when nothing stops and nothing looks wrong?"),
    Step(7, "Where it breaks", 6, 6,
         "Recorded runs, each retrained after the cut. Below the dotted line a model knows nothing: always giving the "
         "most frequent answer scores as much.",
         "Start with MRPC, then change to SST-2.",
         "At which compression would you stop?"),
    Step(8, "Fewer bits", 12, 6,
         "Pruning keeps fewer weights, quantization keeps each in fewer bits: as a whole number times a scale. The "
         "savings multiply.",
         "Only the first experiment: drag the bits from 8 down to 2. The other three are for home.",
         "How much worse is it with each bit less?"),
)
OPENING, CLOSING = 2, 3  # minutes of the class before the first step, and after the last
CLASS = OPENING + sum(step.in_class for step in STEPS) + CLOSING
