"""Runs a loaded bundle on images and volumes, and makes findings with regions of its output.

torch and monai are imported inside functions, so that a process that loads no bundle does not load them.
"""
