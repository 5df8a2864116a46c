"""Datagrams of senders of other makes, as ``benchmarks senders`` sends them."""
