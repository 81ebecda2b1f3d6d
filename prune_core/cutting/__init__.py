"""What a threshold keeps: blocks, masks, cuts, recorded answers about them. Numpy only."""
