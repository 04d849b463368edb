"""Weights in and out: one name table a format, read in both directions."""
