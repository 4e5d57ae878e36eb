"""Matching two dictionaries latent by latent: exact assignments, their certificates, chance floors."""
