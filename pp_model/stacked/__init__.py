"""Clipped sums of per-customer gradients for many merchants at once: one forward, one backward, written out by hand."""
