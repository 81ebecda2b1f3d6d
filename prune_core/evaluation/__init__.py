"""Questions to a finished run: exact scores, rankings, surfaces, sensitivity, flips, speedup."""
