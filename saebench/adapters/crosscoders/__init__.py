"""Crosscoder layouts outside dictionary_learning."""
