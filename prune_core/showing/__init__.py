"""What one sees and hands out: figures, comparisons, the lesson, notebooks, the live map, reports. Needs no torch."""
