"""The `vidseg` command: finds the command's module, and turns user errors into one message.

A command lives in its own module as a function of the command's name (or, where it has
sub-commands, as a `typer.Typer` named `app`). Command modules import only typer and the standard
library at the top, so that `vidseg --help` stays under a second.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vidseg.interrupts import interruptible
from vidseg.shortage import OPEN_FILES, shortage_of

COMMANDS = {
    "demo": "vidseg.cli.demo",
    "segment": "vidseg.cli.segment",
    "train": "vidseg.cli.train",
    "evaluate": "vidseg.cli.evaluate",
    "compare": "vidseg.cli.compare",
    "data": "vidseg.cli.data",
    "models": "vidseg.cli.models",
    "convert": "vidseg.cli.convert",
    "benchmark": "vidseg.cli.benchmark",
    "doctor": "vidseg.cli.doctor",
}

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
SMALLER = {
    "segment": "choose a smaller --size, --sliding or --chunk-frames",
    "evaluate": "choose a smaller --fit, --scales, --sliding or --batch",
    "benchmark": "choose a smaller --size",
    "train": "lower batch_size or data.crop, or raise accumulate; with loader processes, workers",
}
"""What takes less memory, by command."""
GLOBAL_FLAGS = ("--debug", "--quiet")


def load_command(name: str) -> Any:
    """Import a command's module and make its click command.

    Args:
        name: a key of `COMMANDS`.

    Returns:
        The command, named `name`.
    """
    module = importlib.import_module(COMMANDS[name])
    entry = getattr(module, "app", None) or getattr(module, name)
    shell = typer.Typer(add_completion=False)
    shell.callback()(lambda: None)
    if isinstance(entry, typer.Typer):
        shell.add_typer(entry, name=name)
    else:
        shell.command(name)(entry)
    command = typer.main.get_command(shell).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    _let_flow(command)
    return command


def _let_flow(command: Any) -> None:
    """Join the lines of help paragraphs, so that they fit any terminal; those of "\\b" stay."""
    for inner in getattr(command, "commands", {}).values():
        _let_flow(inner)
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(
        text if text.startswith("\b") else text.replace("\n", " ") for text in paragraphs
    )


class LazyCommands(TyperGroup):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands in the order of `COMMANDS`."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load one command; None if there is none of that name."""
        del ctx
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = load_command(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of a line; a mistyped one is a usage error with the closest name."""
        from vidseg.suggest import did_you_mean

        if args[0] not in COMMANDS:
            ctx.fail(f"No such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends in one line and exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            from vidseg.cli.console import errors

            errors.print("\nInterrupted.")
            raise


app = typer.Typer(
    cls=LazyCommands,
    name="vidseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"vidseg {version('vidseg')}")
        raise typer.Exit


@app.callback()
def vidseg(
    ctx: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Only errors and what --json asks for.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Segment video: a class for every pixel of every frame, steady over time."""
    del version
    from vidseg.cli.console import be_quiet, show_logs

    be_quiet(quiet)
    level = logging.DEBUG if debug else logging.ERROR if quiet else logging.INFO
    ctx.call_on_close(show_logs(level))
    for noisy in () if debug else ("PIL", "libav", "httpx", "torch", "accelerate"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _global_flags_first(arguments: Sequence[str]) -> list[str]:
    """Let `vidseg segment clip.mp4 --quiet` mean `vidseg --quiet segment clip.mp4`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in GLOBAL_FLAGS]
    rest = [word for word in arguments[:end] if word not in GLOBAL_FLAGS]
    return [*flags, *rest, *arguments[end:]]


def describe(error: BaseException, command: str = "") -> str:
    """Put an error into one message for the person at the keyboard.

    Args:
        error: what a command raised.
        command: its name.

    Returns:
        The error's own message; for an error of the operating system the file, what happened to it
        and, for a full disk, what to do; for a lack of memory what takes less of it.
    """
    short = shortage_of(error)
    if short:
        helps = command in SMALLER and short != OPEN_FILES
        return f"{short}; {SMALLER[command]}" if helps else short
    if not (isinstance(error, OSError) and error.strerror):
        return str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename is not None else ""
    advice = "; free some space there or write elsewhere" if error.errno == errno.ENOSPC else ""
    return f"{where}{error.strerror}{advice}"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    from vidseg.cli.console import errors

    errors.print(f"warning: {message}", markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    0 is success, 1 an error that the message explains, 2 wrong usage, 130 Ctrl-C or SIGTERM.

    Args:
        arguments: the words after `vidseg`; those of the process if None.

    Raises:
        SystemExit: always, with the exit code.
    """
    from vidseg.cli.console import errors, finish_stdout, open_standard_streams

    open_standard_streams()
    words = _global_flags_first(sys.argv[1:] if arguments is None else list(arguments))
    debug = "--debug" in words
    with interruptible(leave=arguments is None), warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        try:
            typer.main.get_command(app)(args=words, prog_name="vidseg")
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except Exception as error:
            if debug or not (isinstance(error, USER_ERRORS) or shortage_of(error)):
                raise
            command = next((word for word in words if word in COMMANDS), "")
            said = describe(error, command)
            errors.print(f"error: {said}", style="red", soft_wrap=True)
            raise SystemExit(1) from None
        finally:
            finish_stdout()


if __name__ == "__main__":
    main()
