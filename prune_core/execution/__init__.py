"""What is really executed: kernels, the compact model, other engines, and timing them."""
