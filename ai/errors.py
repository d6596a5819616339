"""Describes unexpected errors without patient data."""

from __future__ import annotations


def where(error: BaseException) -> str:
    """The type of an error, and the function and line that raised it. Its message may quote patient data: left out."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"


class LostError(Exception):
    """This process cannot go on, whatever it is asked; a new one can."""
