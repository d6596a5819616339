"""What was lost, changed, doubled or left over after kills and faults."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.benchmarks.servers import ENVIRONMENT
from scripts.benchmarks.torturing.modality import TRIED_AGAIN, Sent, digest
from scripts.benchmarks.torturing.victim import Node, names


def instances_in_pacs(folder: Path) -> list[str]:
    """The SOP Instance UID of every instance that Orthanc has."""
    with urllib.request.urlopen(f"{http_address(folder)}/instances?expand", timeout=120) as answer:  # noqa: S310 - as above
        return [each["MainDicomTags"]["SOPInstanceUID"] for each in json.load(answer)]


def audit(node: Node, sent: Sent, pacs: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    """Compare what was answered, what is kept and what the PACS has; the figures, and every fault in words."""
    newest = node.rows("SELECT sop_instance_uid, file FROM instances WHERE newest = 1")
    kept = {str(uid): str(file) for uid, file in newest}
    every = {str(file) for (file,) in node.rows("SELECT file FROM instances")}
    faults = []
    lost = changed = 0
    for uid, wanted in sent.answered.items():
        if uid not in kept or not (node.data / kept[uid]).is_file():
            lost += 1
            faults.append(f"instance {uid} was answered 0000 and is not kept")
        elif digest(node.data / kept[uid]) != wanted:
            changed += 1
            faults.append(f"instance {uid} was answered 0000 and is kept with other bytes")
    results = {str(uid): str(file) for uid, file in node.rows("SELECT sop_instance_uid, file FROM results")}
    delivered = {str(uid) for (uid,) in node.rows("SELECT subject FROM jobs WHERE kind = 'send' AND state = 'done'")}
    states = _states(node)
    without = [study for study in sent.studies if states.get(study) != "delivered"]
    ((failed,),) = node.rows("SELECT count(DISTINCT study) FROM jobs WHERE state = 'failed'")
    ((deaths,),) = node.rows("SELECT coalesce(max(deaths), 0) FROM jobs WHERE kind = 'read'")
    faults += [f"study {study} ended as {states.get(study, 'unknown')}, not delivered" for study in without]
    twice = [uid for uid, count in Counter(pacs).items() if count > 1]
    faults += [f"the PACS has {uid} more than once" for uid in twice]
    strangers = set(pacs) - set(results)
    faults += [f"the PACS has {uid}, of which the node knows nothing" for uid in strangers]
    ((committed,),) = node.rows("SELECT count(*) FROM committed")
    proven = node.rows(
        "SELECT sop_instance_uid FROM committed UNION SELECT r.sop_instance_uid FROM results r JOIN jobs j"
        " ON j.kind = 'commit' AND j.run_key = r.run_key AND j.outcome = 'superseded'"
    )
    unproven = delivered - {str(uid) for (uid,) in proven}
    faults += [f"{uid} is delivered and the PACS has not committed to it" for uid in unproven]
    missing = delivered - set(pacs)
    faults += [f"{uid} is said to be delivered and is not in the PACS" for uid in missing]
    repeated = node.rows(
        "SELECT study, model FROM readings"
        " GROUP BY study, model, json_extract(reading, '$.sources'), json_extract(reading, '$.failure')"
        " HAVING count(*) > 1"
    )
    faults += [f"study {study} was read twice by {model} on the same images" for study, model in repeated]
    faults += [
        f"{count} times a sender was answered {each}, with which it gives up"
        for each, count in sent.answers.items()
        if re.fullmatch("[0-9A-F]{4}", each) and each not in TRIED_AGAIN
    ]
    leftovers = [
        *names(node.data / "incoming"),
        *names(node.data / "made"),
        *_orphans(node.data, {*every, *results.values()}),
    ]
    faults += [f"{name} is left over" for name in leftovers]
    return {
        "images answered 0000": len(sent.answered),
        "studies": len(sent.studies),
        "lost": lost,
        "changed": changed,
        "results in the PACS": len(pacs),
        "committed to by it": committed,
        "duplicated": len(twice) + len(strangers) + len(repeated),
        "without outcome": len(without),
        "failed": failed,
        "deaths of the node during one reading, at most": deaths,
        "said to be delivered and not there": len(missing),
        "files left over": len(leftovers),
    }, faults


def _states(node: Node) -> dict[str, str]:
    """The state of every study, as IT sees it."""
    command = [sys.executable, "-m", "dicom_node", "studies", "--json", "--limit", "100000", "--config", "node.toml"]
    done = subprocess.run(command, cwd=node.folder, check=True, capture_output=True, env=ENVIRONMENT)
    return {each["study"]: each["state"] for each in json.loads(done.stdout)}


def _orphans(data: Path, known: set[str]) -> Iterator[str]:
    for folder in ("spool", "results"):
        for file in (data / folder).rglob("*"):
            name = str(file.relative_to(data))
            if file.is_file() and name not in known:
                yield name


def http_address(folder: Path) -> str:
    """Where Orthanc's REST interface is."""
    return f"http://127.0.0.1:{json.loads((folder / 'orthanc.json').read_text(encoding='utf-8'))['HttpPort']}"
