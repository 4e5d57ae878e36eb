"""Text that a language model writes itself: sampling, shards, statistics, card."""
