"""Difference SAEs: what of δ = (model 1 − model 0) is reconstructed, token subset by token subset.

``subsets`` says which tokens belong together, ``sums`` what each subset's variance is in every resample,
``arms`` what a reconstruction leaves of it, ``detectors`` which latents single out fire tokens, ``floors``
what simpler reconstructions reach, and ``sweep`` how FVE grows with k.
"""
