"""Scores while a customer waits: HTTP/JSON and gRPC on this machine, one service behind both doors."""
