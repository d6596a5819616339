"""The users of this machine by name: who added a model, and whose files the node's are."""

from __future__ import annotations

import os
import pwd


def current_user() -> str:
    """The user that runs this command, for the record; with the user of sudo, if there is one."""
    user = user_name(os.geteuid())
    by = os.environ.get("SUDO_USER", "")
    return f"{user} (sudo by {by})" if by and by.isprintable() and by != user else user


def user_name(uid: int) -> str:
    """The name of a user of this machine, or its number if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
