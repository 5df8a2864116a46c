"""Installs from the distribution's packages who is not there yet, where that may be done."""

from __future__ import annotations

import os
import shutil
import subprocess

from benchmarks.peers import SERVERS

_LONGEST = 600  # seconds


def main() -> None:
    """Say of each what came of it; what is missing is left out of the comparison, no error."""
    for server in SERVERS:
        version = server.version()
        why = "" if version else _install(server.package)
        version = version or server.version()
        title = server.title
        print(f"{title} {version}" if version else f"{title} is left out: {why}", flush=True)


def _install(package: str) -> str:
    """Why it cannot be installed, or nothing."""
    apt = shutil.which("apt-get")
    if apt is None:
        return f"no apt-get here; install {package} yourself"
    command = [apt, "install", "-y", "--no-install-recommends", package]
    if os.geteuid() != 0:
        sudo = shutil.which("sudo")
        if sudo is None or subprocess.run([sudo, "-n", "true"], capture_output=True).returncode:
            return f"only root may install; sudo apt-get install {package}"
        command = [sudo, "-n", *command]
    print(f"installing {package} ...", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        return f"apt-get took longer than {_LONGEST} s"
    lines = (ended.stderr or ended.stdout).strip().splitlines()
    return (lines or ["apt-get failed"])[-1] if ended.returncode else ""


if __name__ == "__main__":
    main()
