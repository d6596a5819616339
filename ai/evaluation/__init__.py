"""How good is a model on one's own images? Figures with their uncertainty, plots, and a report.

`metrics` are the measures (numpy alone); they know nothing of images, models and files.
"""
