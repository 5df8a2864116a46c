"""HTTP for old clients and browsers, translated to the query bus (docs/http.md)."""
