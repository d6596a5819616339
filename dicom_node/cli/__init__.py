"""The command line: one module a verb, and nothing that decides."""
