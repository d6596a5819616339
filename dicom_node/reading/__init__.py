"""Jobs "read" and "shadow": a study goes to a warm process, its findings come back as result objects."""
