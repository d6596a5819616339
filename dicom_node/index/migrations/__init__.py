"""The tables of the index, as a list of migrations.

A released migration is never edited; a change of the tables is a further migration at the end of `m008_on`.
"""

from __future__ import annotations

from contextlib import closing

from sqlite_utils import Database

from dicom_node.index.migrations import m008_on
from dicom_node.index.migrations.m001_to_m007 import SCHEMA

__all__ = ["MIGRATIONS", "SCHEMA", "m008_on"]

with closing(Database(memory=True)) as _empty:
    MIGRATIONS = frozenset(each.name for each in SCHEMA.pending(_empty))
"""All that this version knows; an index with another one was made by a newer version."""
