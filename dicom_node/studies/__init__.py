"""Decides whether a study is complete, and which routes take it."""
