"""Composes the parts and talks to people: commands, the REPL, serve, the meter."""
