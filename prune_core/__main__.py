"""`python -m prune_core`; the commands are in cli/."""

from __future__ import annotations

import os
import sys

# Threads that wait for each other spin for a moment only, then sleep: two runs, or a run and the app,
# share the cores without halting each other (measured: 2.4 times as fast side by side).
# It must be set before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from prune_core.cli.app import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
