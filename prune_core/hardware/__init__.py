"""What a device must have for an encoder: memory, stages of a pipeline, hours. Numpy only."""
