"""The terminal: tables, a console, progress bars and the question whether a person is there to answer.

Every verb prints through these helpers, so that output into a file or a pipe has the same width everywhere. rich is
imported inside the functions: a node must answer its first C-ECHO within a second of its start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dicom_node.models.sources import Progress as DownloadProgress

_PIPE_COLUMNS = 220
"""The width of a line in a file or a pipe, in characters: as long as a table of this command line needs."""


def console(*, highlight: bool = True) -> Console:
    """A console on standard output; as wide as a table needs if that is a file or a pipe."""
    from rich.console import Console

    made = Console(highlight=highlight)
    if not made.is_terminal:
        made.width = _PIPE_COLUMNS
    return made


def table(*columns: str) -> Table:
    """A table without lines; the texts of its columns are wrapped, never cut."""
    made = _bare_table()
    for column in columns:
        made.add_column(_escaped(column), overflow="fold")
    return made


def table_of_figures(first: str, *columns: str) -> Table:
    """A table without lines: a column of names, then columns of numbers, aligned right."""
    made = _bare_table()
    made.add_column(_escaped(first))
    for column in columns:
        made.add_column(_escaped(column), justify="right")
    return made


def can_ask() -> bool:
    """Whether a person is at the terminal to answer a question."""
    return sys.stdin.isatty()


@contextmanager
def download_progress() -> Iterator[DownloadProgress]:
    """A progress bar for a download, on standard error; nothing if that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _whole: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("download"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = None

        def show(done: int, whole: int | None) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("download", total=whole)
            bar.update(task, completed=done)
            if done == whole:
                bar.stop()  # the question that comes next needs the line

        yield show


@contextmanager
def counter(what: str) -> Iterator[Callable[[], None]]:
    """A count of steps whose number nobody knows, on standard error; nothing if that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} " + what))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda: bar.advance(task)


@contextmanager
def count_progress(what: str, count: int) -> Iterator[Callable[[], None]]:
    """A progress bar of ``count`` steps, on standard error; nothing if that is no terminal. Call it once a step."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=count)
        yield lambda: bar.advance(task)


def _bare_table() -> Table:
    from rich.table import Table

    return Table(box=None, header_style="bold", pad_edge=False)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
