"""BatchTopK, matryoshka_sae and FaithfulSAE."""
