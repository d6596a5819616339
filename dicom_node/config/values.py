"""The types of values in the configuration (AE titles, hosts, ports ...), with the message for a wrong value."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_LIKE_IPV4 = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")
_HOST_WITH_PORT = re.compile(r"(?:[^:]+|\[.*\]):[0-9]+")


def _ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: 1 to 16 characters, no backslash, no control character; spaces at both ends do not count."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not all(" " <= c <= "~" for c in title):
        raise ValueError("expected an AE title: 1 to 16 printable ASCII characters, no backslash")
    return title


def _host(value: str) -> str:
    """An IP address, or a host name (RFC 1123 2.1). Underscores are accepted, since Windows and containers use them."""
    text = value.strip()
    printable = all(c.isprintable() and not c.isspace() for c in text)
    if printable and _address(text) is not None:
        return text
    if _HOST_WITH_PORT.fullmatch(text):
        raise ValueError("expected an IP address or a host name without a port; the port has its own key")
    if printable and _LIKE_IPV4.fullmatch(text):  # the C library reads 10, 1.2 or 0x7f.1 as an IPv4 address
        raise ValueError("looks like an IPv4 address and is not one; expected four numbers from 0 to 255")
    name = text.removesuffix(".")
    if len(name) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(
            "expected an IP address or a host name: parts of 1 to 63 letters, digits and hyphens, separated by dots"
        )
    return text


def _any_of(value: Any) -> Any:
    """A single pattern as a list of one."""
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[
    tuple[str, ...],
    BeforeValidator(_any_of),
    Field(min_length=1, json_schema_extra={"allowed": "patterns with * and ?; capitals do not count"}),
]
AETitle = Annotated[
    str, AfterValidator(_ae_title), Field(json_schema_extra={"allowed": "1 to 16 printable ASCII characters"})
]
Host = Annotated[
    str, AfterValidator(_host), Field(json_schema_extra={"allowed": "an IP address or a host name, without a port"})
]
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        json_schema_extra={"allowed": "1 to 64 letters, digits, dots, hyphens or underscores"},
    ),
]
Flag = Annotated[bool, Field(strict=True)]  # strict: "yes" and 1 are not booleans, and true is not a number
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=86400, allow_inf_nan=False)]
Prevalence = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")],
        Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)],
    ],
    Field(json_schema_extra={"allowed": "keys of classes, each with a number between 0 and 1"}),
]
Output = Literal["sr", "sc", "gsps", "seg", "pdf", "kos"]


def _with_words(value: tuple[Output, ...]) -> tuple[Output, ...]:
    """A failure and a negative answer lead to no mark, segment or key image: something must tell them apart."""
    if not {"sr", "sc", "pdf"} & set(value):
        raise ValueError("expected sr, sc or pdf among them: the others exist only where something was found")
    return value


Outputs = Annotated[tuple[Output, ...], Field(min_length=1), AfterValidator(_with_words)]
Language = Literal["en", "ko", "ja"]
Viewer = Literal["any", "ohif"]
Pictures = Literal["jpeg", "jpeg-ls", "uncompressed"]


class Table(BaseModel):
    """A table of the file. The text below a key is its line in docs/reference/configuration.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def once(where: str, key: str, values: Sequence[str]) -> None:
    """Refuse values of a key of which one stands more often than once.

    Raises:
        ValueError: it says which.
    """
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{where}: each {key} may stand once, {', '.join(map(repr, twice))} stands more often")


def to_folder(value: Any) -> Any:
    """The path of a folder from a text or a path. ``~`` and ``~user`` become the home folder. Other types pass.

    Raises:
        ValueError: it is empty, has a NUL character, or names a user who does not exist.
    """
    if not isinstance(value, str | Path):
        return value
    if not str(value).strip() or "\0" in str(value):
        raise ValueError("expected the path of a folder")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{Path(value).parts[0]} is not the home folder of a user of this machine") from error


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    """A host in one canonical form, so that two ways to write it compare equal. No name is looked up."""
    return _address(host) or host.lower().removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether an address or host name stands for the loopback interface. No name is looked up."""
    place = address_of(host)
    return place == "localhost" if isinstance(place, str) else place.is_loopback


def is_this_machine(host: str, own: str) -> bool:
    """Whether a host is this machine.

    That is a loopback or unspecified address, ``own`` (the address that the node listens on), or this machine's host
    name.
    """
    place = address_of(host)
    if is_loopback(host) or place == address_of(own) or (not isinstance(place, str) and place.is_unspecified):
        return True
    name = socket.gethostname().lower()
    return place in {name, name.partition(".")[0]}


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address in a text, an IPv4-mapped one as IPv4. None if the text is not an address."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None) or found
