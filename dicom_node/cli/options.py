"""Options and sentences that several verbs share: ``--config``, ``--yes``, and the advice to restart the node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
DEFAULT_CONFIG = Path("config/node.toml")
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: what the model runs is trusted.")]
RESTART = "A running node goes on as it is; it takes effect at its next start: restart the node."
EXIT_STATUSES = {
    0: "It went well.",
    1: "What was asked for did not go well; standard error says why. `check` and `models verify`: a point failed.",
    2: "The configuration, or the command line itself, is wrong.",
    3: "`run` alone: a part of the node has died; the service manager should start it again.",
}
"""Every exit status of the commands, with its meaning."""
