"""The seam: a run as it is asked for, recorded and read. Needs no torch.

What stands before it trains and writes runs; what comes after it only reads them.
"""
