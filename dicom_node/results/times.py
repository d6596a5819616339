"""Times in result objects: every one derives from `Run.created` and is given in the source's own time zone.

No clock is read anywhere in this package, so the same run always encodes to the same bytes. The zone is the source's
Timezone Offset From UTC (0008,0201; PS3.3 C.12.1).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset

from dicom_node.results.run import Run
from dicom_node.results.source_bytes import text_of

_OFFSET = re.compile(r"([+-])(\d{2})([0-5]\d)")


def local_time(run: Run, header: Dataset) -> datetime:
    """When the run was created, in the time zone of the source ``header``, which then applies to the whole object."""
    return in_zone_of(header, run.created)


def in_zone_of(header: Dataset, time: datetime) -> datetime:
    """A time converted to the source's zone; unchanged if the source gives no well-formed zone."""
    offset = zone_offset(header)
    return time if offset is None else time.astimezone(timezone(offset))


def zone_offset(header: Dataset) -> timedelta | None:
    """The source's offset from UTC. None if it is absent, malformed, or beyond 14 hours."""
    found = _OFFSET.fullmatch(text_of(header, "TimezoneOffsetFromUTC"))
    if found is None:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return None if offset > timedelta(hours=14) else -offset if found[1] == "-" else offset


def shown_time(at: datetime) -> str:
    """A time as result objects print it for a person."""
    return f"{at:%Y-%m-%d %H:%M} UTC{at:%z}"
