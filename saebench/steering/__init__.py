"""Steering: directions, interventions at a site, outcomes, and how they follow the strength."""
