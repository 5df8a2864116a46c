"""A client's key file: what ``wattbus keys add`` writes, and a client of the bus reads."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from query.transport import BusError

SUFFIX = ".wattbus-key"
# Z85: five characters for four octets.
Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}$")]
_LARGEST = 4096  # octets of a key file
_MAKE_ANEW = "`wattbus keys add` makes key files, on the collector's machine"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Who a client is, and which service it expects; keys in Z85. Shown without the secret."""

    name: str
    role: str
    server: Key
    public: Key
    secret: Key

    def __repr__(self) -> str:
        return f"Credentials(name={self.name!r}, role={self.role!r})"

    def to_text(self) -> str:
        """The key file, which is TOML; no Z85 character needs quoting there."""
        return (
            f'# The key of a client of the Wattbus query bus: whoever has it is "{self.name}".\n'
            f'name = "{self.name}"\nrole = "{self.role}"\nserver = "{self.server}"\n'
            f'public = "{self.public}"\nsecret = "{self.secret}"\n'
        )


def read(path: str | Path) -> Credentials:
    """The credentials of a key file; BusError where it cannot be used, or others may read it."""
    try:
        with open(path, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise BusError(
                    "bad_key_file", f"others may read the key file {path}: chmod 600 {path}"
                )
            octets = file.read(_LARGEST)
    except OSError as error:
        raise BusError(
            "bad_key_file", f"cannot read the key file {path}: {error.strerror}"
        ) from None
    try:
        return msgspec.convert(tomllib.loads(octets.decode()), Credentials)
    except (ValueError, msgspec.ValidationError) as error:
        raise BusError("bad_key_file", f"{path} is no key file: {error}; {_MAKE_ANEW}") from None
