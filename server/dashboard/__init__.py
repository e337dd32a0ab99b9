"""The platform's dashboard: what runs, what was decided and what it cost, for those who operate it."""
