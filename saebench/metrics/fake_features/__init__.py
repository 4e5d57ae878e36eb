"""Fake features: counting latents that fire on random text, relative thresholds, intervals, results."""
