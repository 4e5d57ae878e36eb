"""EleutherAI's sparsify and clt-training."""
