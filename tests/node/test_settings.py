"""Settings are replaced while the node runs: its parts follow at once, and no association is aborted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicom_node.node import Node
from tests.support.nodes import settings_for
from tests.support.peers import associate, send
from tests.support.samples import make_image


def test_the_parts_of_a_node_follow_other_settings(start_node: Callable[..., Node], tmp_path: Path) -> None:
    before = settings_for(tmp_path, node={"quiet_seconds": 3600.0})
    ct2 = {"name": "ct2", "ae_title": "CT2", "host": "127.0.0.1", "may_store": True}
    after = settings_for(
        tmp_path, peers=[ct2], node={"quiet_seconds": 0.1, "keep_free_gb": 1_000_000, "ae_title": "OTHER"}
    )
    node, first, second = start_node(before), make_image(), make_image()
    contexts = [(first.SOPClassUID, first.file_meta.TransferSyntaxUID)]
    assert associate(node.port, *contexts, calling="CT2").is_rejected
    held = associate(node.port, *contexts)
    assert held.is_established
    assert set(node.use(after)) == {"node.ae_title", "peers.ct2.ae_title", "peers.ct2.host"}
    assert int(held.send_c_store(first).Status) == 0xA700, "more is to be kept free than any disk has"
    node.use(after.model_copy(update={"node": before.node}))
    assert int(held.send_c_store(first).Status) == 0x0000, "the association that was open goes on"
    held.release()
    assert send(node.port, second, calling="CT2") == [0x0000]
    node.use(before)
    assert associate(node.port, *contexts, calling="CT2").is_rejected
