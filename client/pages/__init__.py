"""The merchant's pages: budget, plans, data, model, insight. On this machine alone, for who may read its files."""
