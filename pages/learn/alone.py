"""Learn for a class: `prunescope lesson` starts it. An app with this one page, which only shows.

A script of its own, in a folder with no pages beside it: the other pages are not hidden here, they do not exist.
"""

from __future__ import annotations

import os

os.environ["PRUNESCOPE_READ_ONLY"] = "1"  # before anything reads it, however this was started

import streamlit as st  # noqa: E402

from pages.learn import sentence, walk  # noqa: E402
from pages.shared import widgets  # noqa: E402

st.session_state["alone"] = True
widgets.frame("Learn")
sentence.asked()  # so that the answers are there before the class comes to step 4
walk.show()
