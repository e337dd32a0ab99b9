"""The sum of what merchants hold, and nothing else: the protocol of docs/secure_sum.md, without its network."""
