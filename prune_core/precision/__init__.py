"""Number formats and patterns that kept weights are stored in, quantizers, and the bytes that this takes. Numpy only."""
