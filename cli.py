"""Command line `cckt`: assemble the commands and map errors to exit codes.

Commands import the library when they run, so `--help` stays fast. Exit codes: 0 done; 1 internal error; 2 an
error the user can fix, one sentence on stderr; 128 + n stopped by signal n; 141 the reader of the output is
gone, as in `cckt cache info DATA | head -1`.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperGroup

from cckt import __version__
from cckt.cache_builder.base.disk_faults import explained_faults
from cckt.cache_builder.base.errors import UserError
from cckt.commands import data
from cckt.commands.ablate import ablate
from cckt.commands.cache import columns, make, nouns, priors, proposals, tables
from cckt.commands.console import (
    CLOSED,
    Answer,
    OutputClosed,
    accept_any_text,
    close_output,
    quiet_progress,
    reader_is_gone,
    require_figures_file,
    show_error,
)
from cckt.commands.doctor import doctor
from cckt.commands.eval import evaluate
from cckt.commands.export import export
from cckt.commands.predict import predict
from cckt.commands.pseudo import pseudo
from cckt.commands.quickstart import quickstart
from cckt.commands.report import report
from cckt.commands.train import TrainCommand, train

VERBS = (
    "quickstart",
    "data",
    "cache",
    "train",
    "eval",
    "predict",
    "report",
    "pseudo",
    "export",
    "ablate",
    "doctor",
)
"""Commands in the order of `cckt --help`, which is the order of use."""


class _Stopped(Exception):
    """Ctrl-C in a command that has no message for it."""


class _Commands(TyperGroup):
    """The commands in order; passes Ctrl-C to `run` instead of the parser's handler."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of VERBS."""
        return list(VERBS)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Stopped from None
        except BrokenPipeError as error:
            if reader_is_gone():  # in the help of a verb, which the parser prints
                raise OutputClosed from None
            # Of a process or a network; the parser would leave without a word.
            raise RuntimeError(f"{type(error).__name__}: {error}") from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_group = typer.Typer(help="Index your own data set, or render shapeworld.", no_args_is_help=True)
data_group.command("index")(data.index)
data_group.command("split")(data.split)
data_group.command("shapeworld")(data.shapeworld)
app.add_typer(data_group, name="data")

cache_group = typer.Typer(help="Build, verify and compare cached teacher features.", no_args_is_help=True)
cache_group.command("text")(make.text)
cache_group.command("crops")(make.crops)
cache_group.command("images")(make.images)
cache_group.command("priors")(priors.priors)
cache_group.command("proposals")(proposals.proposals)
cache_group.command("nouns")(nouns.nouns)
cache_group.command("fit-nouns")(nouns.fit_nouns)
cache_group.command("all")(make.all_columns)
cache_group.command("plan")(tables.plan)
cache_group.command("info")(columns.info)
cache_group.command("verify")(columns.verify)
cache_group.command("diff")(columns.diff)
cache_group.command("pull")(columns.pull)
cache_group.command("finish")(columns.finish)
cache_group.command("export")(tables.export_table)
cache_group.command("import")(tables.import_table)
app.add_typer(cache_group, name="cache")

app.command("quickstart")(quickstart)
app.command("train", cls=TrainCommand)(train)
app.command("eval")(evaluate)
app.command("predict")(predict)
app.command("report")(report)
app.command("pseudo")(pseudo)
app.command("export")(export)
app.command("ablate")(ablate)
app.command("doctor")(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        Answer().lines(f"cckt {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no progress; accepted anywhere on the command line.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; accepted anywhere.")
    ] = False,
) -> None:
    """Train open-vocabulary detectors from cached features of a frozen CLIP teacher.

    Start with [bold]cckt quickstart[/bold]: the whole pipeline in ten minutes.
    """
    assert not quiet, "expected run() to remove --quiet"
    assert not debug, "expected run() to remove --debug"


@functools.cache
def _parser() -> Any:
    """Return the parser of all commands; to build it takes longer than many a command."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. With `--debug` exceptions pass through."""
    try:
        return _run(arguments)
    except OutputClosed:  # also while an error is shown
        return CLOSED


def _run(arguments: Sequence[str]) -> int:
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument not in ("--debug", "--quiet")]
    try:
        command = _parser()
        with explained_faults(), quiet_progress("--quiet" in arguments):
            _check_places(command, rest)
            command.main(rest, prog_name="cckt")
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # in the help, which the parser prints
            raise OutputClosed from None
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except OutputClosed:
        raise
    except UserError as error:
        if debug:
            raise
        show_error(str(error))
        return error.exit_code
    except _Stopped:
        show_error("stopped; finished work is kept. Run the same command to continue.")
        return 130
    except MemoryError as error:
        if debug:
            raise
        show_error(
            f"the memory of this machine is used up ({str(error) or 'no more is given'}), expected enough "
            "for these options; use smaller numbers, such as --batch or --workers, or more memory."
        )
        return UserError.exit_code
    except Exception as error:
        if debug:
            raise
        reason = str(error).splitlines()[0] if str(error) else ""
        show_error(
            f"internal error: {type(error).__name__}: {reason}; please report it with the output of the same "
            "command under --debug."
        )
        return 1
    return 0


def _check_places(command: Any, words: Sequence[str]) -> None:
    """Raise UserError for an empty file or folder name, for a URL where only a local path can be, for a place
    that ends with the process, for a text that is not UTF-8 and is no path, and for a file of figures that
    cannot be written.

    The parser would take "" for the current folder, and s3://a/b for the folder s3:/a/b.
    """
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    options = {name: one for one in command.params for name in one.opts if name.startswith("-")}
    hints = get_type_hints(command.callback) if options and command.callback else {}
    values = list(_values(options, words))
    for option, value in values:
        known = options.get(option)
        hint = None if known is None else hints.get(known.name)
        local = _names_path(hint)
        place = option == "" or getattr(known, "metavar", None) == "PLACE"
        if not value and (place or local or option == "--json"):
            raise UserError(
                f"{option or 'an argument'}: found an empty name, expected a file or folder; give its name."
            )
        if local and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
            raise UserError(f"{option} {value}: found a URL, expected a path on this machine; give a path.")
        names_file = local or place or option == "--json"
        if known is not None and not names_file and not _is_utf8(value):
            raise UserError(f"{option}: found {value!r}, which is not UTF-8; give a text in UTF-8.")
        if place and value.startswith("memory://"):
            raise UserError(
                f"{option or 'an argument'} {value}: found a place in the memory of this process, which ends "
                "with the command, expected a folder or a URL of a store; give one."
            )
        if option == "--json" and value != "-":
            outputs = [Path(out) for name, out in values if name == "--out"]
            require_figures_file(Path(value), outputs)


def _is_utf8(text: str) -> bool:
    """Return whether a word of the command line is UTF-8. Python keeps other bytes as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names_path(hint: Any) -> bool:
    """Return whether a type hint holds Path: Path, Path | None, list[Path] ..."""
    return hint is Path or any(map(_names_path, get_args(hint)))


def _values(options: dict[str, Any], words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (option, value) of a command line; the option of an argument is ""."""
    waiting = ""
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if waiting:
            yield waiting, word
            waiting = ""
        elif word == "--":
            yield from (("", rest) for rest in words[at + 1 :])
            return
        elif equals and name in options:
            yield name, value
        elif word in options:
            waiting = "" if getattr(options[word], "is_flag", False) else word
        elif not (word.startswith("-") and len(word) > 1):
            yield "", word


def main() -> None:
    """Console script `cckt`."""
    accept_any_text()
    code = run(sys.argv[1:])
    sys.exit(close_output() or code)


if __name__ == "__main__":
    main()
