"""Phantoms: drawn chest radiographs of no patient, with findings at known places."""
