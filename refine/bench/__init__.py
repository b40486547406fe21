"""Measures on real problems whether a refined schedule helps; `refine bench` runs it."""
