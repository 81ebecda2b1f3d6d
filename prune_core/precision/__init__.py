"""Number formats and patterns of kept weights, quantizers, and the bytes that they take. Numpy only."""
