"""``wattbus`` by the shortest way: what serves starts without importing what asks, and reversed.

A collector that was killed is to be back within two seconds, and half of a start is imports; of a
question from the shell they are nearly all.
"""

from __future__ import annotations

import sys

from cli import serving

_SERVING = {program[0]: program for program in (serving.SERVE, *serving.PARTS)}


def main() -> int:
    """Run one command; the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    parser = serving.build_parser()
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    if name in _SERVING:
        serving.add(subparsers, _SERVING[name])
    else:
        from cli import commands

        if name not in {command.name.partition(" ")[0] for command in commands.COMMANDS}:
            from cli.main import main as any_command

            return any_command()
        commands.add_parsers(subparsers)
    arguments = parser.parse_args()
    code: int = arguments.run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
