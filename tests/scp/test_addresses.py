"""Addresses of both families: the node on "::", peers by names that have several, and localhost."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from dicom_node.config.holder import SettingsHolder
from dicom_node.config.settings import Peer
from dicom_node.network.requestor import Requestor, Timeouts, uncompressed
from dicom_node.network.verification_scu import echo
from dicom_node.node import Node
from dicom_node.scp.access import Access, PeerIdentity, Proposal
from tests.support.nodes import settings_for
from tests.support.peers import free_port

StartNode = Callable[..., Node]


def both_families() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6 beside IPv4")


def answers(address: str, port: int) -> int | None:
    ae = AE(ae_title="TESTER")
    ae.add_requested_context(Verification)
    association = ae.associate(address, port, ae_title="AINODE")
    if not association.is_established:
        return None
    status = association.send_c_echo()
    association.release()
    return int(status.Status)


def test_a_node_on_two_colons_serves_both_families(start_node: StartNode, tmp_path: Path) -> None:
    both_families()
    peers = [{"name": "other", "ae_title": "TESTER", "host": "::1", "may_store": True}]
    node = start_node(settings_for(tmp_path / "node", node={"host": "::"}, peers=peers))
    assert [answers(address, node.port) for address in ("127.0.0.1", "::1")] == [0x0000, 0x0000]


def name_with(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """A name server's answer: peer.example has these addresses, in this order."""
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "peer.example":
            return ask(host, port, *args, **kwargs)
        return [found for each in addresses for found in ask(each, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize(
    ("host", "address", "may"),
    [
        ("peer.example", "127.0.0.1", True),
        ("peer.example", "::1", True),
        ("peer.example", "127.0.0.2", False),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("LOCALHOST.", "::1", True),
        ("localhost", "127.0.0.2", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("127.0.0.1", "::1", False),
    ],
)
def test_a_peer_may_call_from_each_of_its_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, address: str, may: bool
) -> None:
    name_with(monkeypatch, "::1", "127.0.0.1")
    peers = [{"name": "other", "ae_title": "OTHER", "host": host}]
    access = Access(SettingsHolder(settings_for(tmp_path, peers=peers)), (), {Verification})
    judged = access.judge(Proposal("AINODE", "OTHER", address, frozenset({Verification})))
    assert isinstance(judged, PeerIdentity) == may


@pytest.mark.slow
@pytest.mark.parametrize("listens", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(("host", "order"), [("peer.example", 1), ("peer.example", -1), ("localhost", 1)])
def test_a_peer_is_called_at_each_of_its_addresses_until_one_answers(
    monkeypatch: pytest.MonkeyPatch, listens: str, host: str, order: int
) -> None:
    both_families()
    name_with(monkeypatch, *("::1", "127.0.0.1")[::order])
    ae = AE(ae_title="PACS")
    ae.add_supported_context(Verification)
    port = free_port()
    address: Any = (listens, port) if listens != "::1" else (listens, port, 0, 0)
    server = ae.start_server(address, block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0x0000)])
    try:
        peer = Peer(name="pacs", ae_title="PACS", host=host, port=port, destination=True)
        requestor = Requestor("AINODE", peer, uncompressed((Verification,)), timeouts=Timeouts(connect=5.0, answer=5.0))
        assert echo(requestor) == 0x0000
        requestor.release()
    finally:
        server.shutdown()
