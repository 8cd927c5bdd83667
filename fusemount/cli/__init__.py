"""The command line: one module a command, collected here.

Every user's mistake leaves as one line on standard error and exit code 2; a failure that is not
the user's leaves as one line and exit code 1.
"""

import importlib
import sys
from collections.abc import Sequence

import click

from fusemount.errors import MountError, UsageError

# Each module defines `command`. Imported on use: a command pays for what it needs only.
_COMMANDS: dict[str, str] = {
    "mount": "fusemount.cli.mount",
    "umount": "fusemount.cli.umount",
    "status": "fusemount.cli.status",
    "slow-source": "fusemount.cli.slow_source",
    "demo": "fusemount.cli.demo",
    "bench": "fusemount.cli.bench",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fusemount")
def cli() -> None:
    """Mount model directories so that inference servers load them fast."""


def _one_line(message: object) -> str:
    """The message with control characters spelled out: a path may hold a line break."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(message)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage."""
    try:
        sys.exit(cli.main(args=arguments, prog_name="fusemount", standalone_mode=False))
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        print(f"fusemount: {_one_line(error.format_message())}", file=sys.stderr)
        sys.exit(2)
    except UsageError as error:
        print(f"fusemount: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except MountError as error:
        print(f"fusemount: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
