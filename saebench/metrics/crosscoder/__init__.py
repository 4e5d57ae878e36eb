"""Latents of a crosscoder over two models: which class each is of, and how each model uses it."""
