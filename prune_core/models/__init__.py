"""Checkpoints as encoders whose prunable matrices are known by name, and the dense model as a teacher."""
