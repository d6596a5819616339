"""The command line: one module for each verb. It reads options, calls the package below it, and prints the answer.

`main` (entry point, exit statuses), `options` (shared options), `terminal` (tables, console, progress). Verbs: `run`,
`check`, `demo`, `studies` (and ``retry``), and `models`, a package with a module for each larger command of its own.
Nothing is decided here.
"""
