"""One script for each peer; it runs in the environment of that peer, which benchmarks/setup.sh makes."""
