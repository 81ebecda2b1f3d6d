"""Learn: block pruning in eight steps, each with one thing to do, one to see, questions and exercises.

Needs no trained model, but for the fourth, the seventh and the eighth step.
"""

from __future__ import annotations

from pages.learn import walk
from pages.shared import widgets

widgets.page("Learn")
walk.show()
