"""What both daemons are made of: child processes, a structured log, health endpoints, private files."""
