"""A loaded bundle, what it is shown, and how its output becomes findings with regions."""
