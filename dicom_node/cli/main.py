"""The entry point of the command line: ``dicom-node run | check | studies | retry | index | quarantine | ...``."""

from __future__ import annotations

import os
import sys

import typer

from dicom_node import __version__
from dicom_node.cli import index, models, quarantine
from dicom_node.cli.check import check
from dicom_node.cli.clock import clock
from dicom_node.cli.demo import demo
from dicom_node.cli.run import run
from dicom_node.cli.studies import retry, studies
from dicom_node.errors import ConfigError, NodeError

# Commands import what they need inside their functions: a node must answer a C-ECHO within a second of its start.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A PACS-integrated AI node: receives studies, reads them, sends the findings back as DICOM.",
)
for command in (run, check, studies, retry, clock, demo):
    app.command()(command)
app.command()(index.backup)
app.add_typer(index.app, name="index")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(models.app, name="models")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """The entry point; an error of the node's own kind is one clear text on standard error, not a stack trace.

    What a command writes belongs to its user alone: most of it is of patients.

    Exit status 2 for an error in the configuration, 1 for any other.
    """
    os.umask(0o077)
    try:
        app()
    except ConfigError as error:
        print(f"dicom-node: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except NodeError as error:
        print(f"dicom-node: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except PermissionError as error:  # usually a user other than the node's reads its folder
        from dicom_node.models.users import current_user

        fix = "run this as the user that the node runs as" if error.filename else "more rights are needed"
        what = f"{error.filename or 'the system'}: {error.strerror}; this runs as {current_user()}: {fix}"
        print(f"dicom-node: {what}", file=sys.stderr)
        raise SystemExit(1) from None
