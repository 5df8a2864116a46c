"""``wattbus`` by the shortest way: what serves starts without importing what asks.

A collector that was killed is to be back within two seconds, and half of a start is imports.
"""

from __future__ import annotations

import sys

from cli import serving

_SERVING = {program[0]: program for program in (serving.SERVE, *serving.PARTS)}


def main() -> int:
    """Run one command; the exit code."""
    program = _SERVING.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if program is None:
        from cli.main import main as any_command

        return any_command()
    parser = serving.build_parser()
    serving.add(parser.add_subparsers(dest="command", metavar="COMMAND", required=True), program)
    arguments = parser.parse_args()
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
