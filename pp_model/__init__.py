"""The shared science of purchase power: a pure library with no files, clocks, sockets or global randomness."""
