"""Questions and their answers: the bus protocol, its service, its client, the HTTP shim."""
