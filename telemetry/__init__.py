"""Bytes into readings: registers, formats, energy, calendars. Knows no database and no bus."""
