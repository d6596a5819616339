"""Torture test: kills the node and makes its disk fail while studies arrive; counts what was lost or sent twice."""
