"""Kills and disk faults while studies come in, and what was lost or sent twice."""
