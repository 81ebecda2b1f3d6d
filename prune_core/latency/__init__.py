"""How long a cut will take: strips of blocks, and the latency model that is calibrated to a machine. Numpy only."""
