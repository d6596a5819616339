"""Drawn chest radiographs of nobody, with findings whose place is known."""
