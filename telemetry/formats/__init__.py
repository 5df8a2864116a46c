"""Datagram formats: what each is called is in ``names``, and its decoder in ``table``."""
