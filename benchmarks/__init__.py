"""Measurements: ours beside the peers, with the same work, on the same machine."""
