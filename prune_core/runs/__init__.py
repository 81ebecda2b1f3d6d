"""The seam: a run as it is asked for, recorded and read. Left of it needs training, right of it only reads. Needs no torch."""
