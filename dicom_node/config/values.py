"""The kinds of value that a key of the configuration may have, each with what is said of a wrong one."""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


_NUMBERS = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")


_WITH_PORT = re.compile(r"(?:[^:]+|\[.*\]):[0-9]+")


def _ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: 1 to 16 characters, no backslash, no control; spaces at the ends are not significant."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not all(" " <= c <= "~" for c in title):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _host(value: str) -> str:
    """An IP address, or a name as RFC 1123 2.1 has it; underscores, which Windows and containers use, are let pass."""
    text = value.strip()
    printable = all(c.isprintable() and not c.isspace() for c in text)
    if printable and _address(text) is not None:
        return text
    if _WITH_PORT.fullmatch(text):
        raise ValueError("expected an IP address or a host name alone; the port is a key of its own")
    if printable and _NUMBERS.fullmatch(text):  # the C library would read 10, 1.2 or 0x7f.1 as an address, too
        raise ValueError("looks like an IPv4 address but is none: four numbers from 0 to 255 were expected")
    name = text.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(
            "expected an IP address or a host name: dots between parts of 1 to 63 letters, digits and hyphens"
        )
    return text


def to_folder(value: Any) -> Any:
    """A path as text or as such, its ``~`` or ``~user`` replaced by the home folder."""
    if not isinstance(value, str | Path):
        return value
    if not str(value).strip() or "\0" in str(value):
        raise ValueError("expected the path of a folder")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{Path(value).parts[0]} is the home folder of no user of this machine") from error


def _any_of(value: Any) -> Any:
    """One pattern may stand without the brackets of a list."""
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_any_of), Field(min_length=1)]


AETitle = Annotated[str, AfterValidator(_ae_title)]


Host = Annotated[str, AfterValidator(_host)]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


Flag = Annotated[bool, Field(strict=True)]  # strict: neither "yes" nor 1 is true, and true is no number


Port = Annotated[int, Field(strict=True, ge=1, le=65535)]


Seconds = Annotated[float, Field(strict=True, ge=0, le=86400, allow_inf_nan=False)]


Output = Literal["sr", "sc", "gsps", "seg", "pdf", "kos"]


Language = Literal["en", "ko", "ja"]


def is_loopback(host: str) -> bool:
    """Whether an address or host name stays on this machine."""
    place = address_of(host)
    return place == "localhost" if isinstance(place, str) else place.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None) or found


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    """What two ways of writing one host have in common; no name is looked up."""
    return _address(host) or host.lower().removesuffix(".")


def is_this_machine(host: str, own: str) -> bool:
    """Whether a host is this machine: its loopback, the address that the node listens on, or the machine's own name."""
    place = address_of(host)
    if is_loopback(host) or place == address_of(own) or (not isinstance(place, str) and place.is_unspecified):
        return True
    name = socket.gethostname().lower()
    return place in {name, name.partition(".")[0]}
