"""Evaluates a model on labelled images: figures with confidence intervals, plots, and a report.

`metrics` holds the statistical measures. It needs numpy alone, and no image, model or file.
"""
