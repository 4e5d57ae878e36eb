"""Probes: classifiers on pooled activations, latents and reconstructions, and how they are scored."""
