"""Every text of the results that a person reads, in each language."""
