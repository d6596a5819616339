"""How an unexpected error is told without telling patient data."""

from __future__ import annotations


def where(error: BaseException) -> str:
    """The type of an unexpected error and the place that raised it; never its message, which may quote patient data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
