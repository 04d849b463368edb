"""What every launcher does first: will this command run on that machine?

    python launch/check.py --topology=v5e:16x16 -- mmjax train --distributed --config=... ...

The command has to join its processes, and its config has to fit: it goes through `mmjax plan`.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 where the command may be launched, else the status of what refused."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", required=True, help="as for mmjax plan: v5e:16x16, h100:4x8")
    parser.add_argument("--no-plan", action="store_true", help="do not compile for the topology")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    return check(command, args.topology, plan=not args.no_plan, dry_run=args.dry_run)


def check(command: Sequence[str], topology: str, *, plan: bool, dry_run: bool) -> int:
    if not command:
        print("give the command to launch after --", file=sys.stderr)
        return 2
    if command[0] == "mmjax" and "--distributed" not in command:
        print(f"add --distributed to: {shlex.join(command)}", file=sys.stderr)
        return 2
    if not plan or list(command[:2]) != ["mmjax", "train"]:
        return 0
    config = [word for word in command if word.startswith(("--config=", "--config."))]
    planning = ["mmjax", "plan", f"--topology={topology}", *config]
    if dry_run:
        print(shlex.join(planning))
        return 0
    return subprocess.run([sys.executable, "-m", *planning]).returncode


if __name__ == "__main__":
    sys.exit(main())
