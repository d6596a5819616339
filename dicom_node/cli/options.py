"""Options and sentences that several verbs share: ``--config``, ``--yes``, and the advice to restart the node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]
DEFAULT_CONFIG = Path("config/node.toml")
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: what the model runs is trusted.")]
RESTART = "A running node goes on as it is; it takes effect at its next start: restart the node."
