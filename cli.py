"""Command line `cckt`: assemble the commands and map errors to exit codes.

Commands import the library when they run, so `--help` stays fast. Exit codes: 0 done; 1 internal error; 2 an
error the user can fix, one sentence on stderr; 128 + n stopped by signal n.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cckt import __version__
from cckt.cache_builder.base.errors import UserError
from cckt.commands import cache, columns, data, priors
from cckt.commands.ablate import ablate
from cckt.commands.console import Answer, quiet_progress, show_error
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
cache_group.command("text")(cache.text)
cache_group.command("crops")(cache.crops)
cache_group.command("images")(cache.images)
cache_group.command("priors")(priors.priors)
cache_group.command("all")(cache.all_columns)
cache_group.command("info")(columns.info)
cache_group.command("verify")(columns.verify)
cache_group.command("diff")(columns.diff)
cache_group.command("pull")(columns.pull)
cache_group.command("finish")(columns.finish)
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


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. With `--debug` exceptions pass through."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument not in ("--debug", "--quiet")]
    try:
        with quiet_progress("--quiet" in arguments):
            typer.main.get_command(app).main(rest, prog_name="cckt")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except UserError as error:
        if debug:
            raise
        show_error(str(error))
        return error.exit_code
    except _Stopped:
        show_error("stopped; finished work is kept. Run the same command to continue.")
        return 130
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


def main() -> None:
    """Console script `cckt`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
