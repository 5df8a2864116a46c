"""Datagrams as devices and programs send them, a module a format: ``made(meter, turn)``."""
