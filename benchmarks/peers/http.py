"""HTTP over a connection that is kept open, as a client that asks often has it."""

from __future__ import annotations

import io
from urllib.parse import urlencode

import msgspec
import pycurl

_LONGEST = 600  # seconds of one request


class Http:
    """One connection to a server on this machine. Raises pycurl.error where it is not there."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._curl = pycurl.Curl()
        self._curl.setopt(pycurl.TIMEOUT, _LONGEST)
        self._curl.setopt(pycurl.HTTPHEADER, ["Expect:", "Content-Type: text/plain"])
        self._curl.setopt(pycurl.NOSIGNAL, 1)

    def get(self, path: str, **parameters: str) -> bytes:
        """What it answers; raises RuntimeError where that is an error."""
        self._curl.setopt(pycurl.HTTPGET, 1)
        return self._ask(path, parameters)

    def post(self, path: str, body: bytes = b"", **parameters: str) -> bytes:
        """The same with something to take in."""
        self._curl.setopt(pycurl.POST, 1)
        self._curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(body))
        self._curl.setopt(pycurl.POSTFIELDS, body)
        return self._ask(path, parameters)

    def json(self, path: str, **parameters: str) -> dict[str, object]:
        """What it answers, decoded."""
        found: dict[str, object] = msgspec.json.decode(self.get(path, **parameters))
        return found

    def close(self) -> None:
        """Close the connection."""
        self._curl.close()

    def _ask(self, path: str, parameters: dict[str, str]) -> bytes:
        said = io.BytesIO()
        self._curl.setopt(pycurl.URL, f"{self._base}{path}?{urlencode(parameters)}")
        self._curl.setopt(pycurl.WRITEFUNCTION, said.write)
        self._curl.perform()
        status = self._curl.getinfo(pycurl.RESPONSE_CODE)
        if status >= 300:
            raise RuntimeError(f"{status} to {path}: {said.getvalue()[:300]!r}")
        return said.getvalue()
