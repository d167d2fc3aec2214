"""Comparing two evaluations: their records, what makes them comparable, intervals."""
