"""The command line: one module for each verb. It reads options, calls the package below it, and prints the answer.

`main` (entry point, exit statuses), `options` (shared options), `terminal` (tables, console, progress). Verbs: `run`,
`check`, `demo`, `studies` (and ``retry``), `models` with `models_add`, `models_compare`, `models_evaluate`,
`models_import`. Nothing is decided here.
"""
