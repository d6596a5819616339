"""Trains the shipped bundles, and imports published weights. No node runs the trainings."""
