"""Sentences, labels and scores: the GLUE tasks, table files, encoding, metrics."""
