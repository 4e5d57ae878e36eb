"""Metric definitions as pure mathematics: update, merge, compute, on plain tensors.

Every accumulator keeps its sums per resampling group (``sequence_id % n_groups``), so that memory
does not grow with the number of tokens, results do not depend on batches, order or shards, and
every ratio of sums gets a bootstrap interval over sequences afterwards.
"""
