"""Pruning methods, one file each, and the rankings that decide which groups go."""
