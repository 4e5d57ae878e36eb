"""Anything else with one encoder and one decoder."""
