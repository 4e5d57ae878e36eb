"""Gemma Scope 1 and 2."""
