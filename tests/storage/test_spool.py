"""Files: there whole or not at all, and never where a peer would like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.errors import ConfigError
from dicom_node.storage.spool import Spool


def test_a_file_is_adopted_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.open()
    part = spool.write_parts([[b"head"], [b"bo", memoryview(b"dy")]])[1]
    name = spool.adopt([(part, "1.2.3")])[0]
    assert spool.path(name).read_bytes() == b"body"
    assert not part.exists()
    spool.close()


@pytest.mark.parametrize("uid", ["../../etc/passwd", "/etc/passwd", "1.2\0", "a" * 5000, "한국"])
def test_no_uid_becomes_a_path(tmp_path: Path, uid: str) -> None:
    spool = Spool(tmp_path / "node")
    spool.open()
    path = spool.path(spool.adopt([(spool.write_parts([[b"x"]])[0], uid)])[0]).resolve()
    assert path.is_relative_to((tmp_path / "node/results").resolve())
    assert len(path.stem) == 64
    spool.close()


def test_what_was_never_acknowledged_is_deleted_at_the_start(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.open()
    first.write_parts([[b"half"]])
    first.close()
    again = Spool(tmp_path)
    again.open()
    assert again.recover(lambda _names: ()) == 1
    assert not list((tmp_path / "incoming").iterdir())
    again.close()


def test_what_a_crash_left_in_its_place_goes_unless_the_index_knows_it(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.open()
    names = []
    for uid in ("1.2.3", "1.2.4", "1.2.5"):
        part = first.part_for(uid)
        part.write([memoryview(b"head"), memoryview(b"body")])
        names.append(first.place(part, uid))
        assert first.path(names[-1]).read_bytes() == b"headbody"
    part.discard()  # the third was told of; the crash came between the index and the sender for the second
    first.close()
    again = Spool(tmp_path)
    again.open()
    assert again.recover(lambda found: set(found) & set(names[1:])) == 3, "two partial files, one unknown instance"
    assert [again.path(name).exists() for name in names] == [False, True, True]
    assert not list((tmp_path / "incoming").iterdir())
    again.close()


def test_a_part_is_written_whole_whatever_its_pieces(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.open()
    part = spool.part_for("1.2.3")
    part.write([memoryview(bytes((n % 251,)) * (n % 3)) for n in range(5000)])
    part.write([])
    assert part.size == sum(n % 3 for n in range(5000))
    assert Path(part.path).read_bytes() == b"".join(bytes((n % 251,)) * (n % 3) for n in range(5000))
    part.discard()
    part.discard()
    assert not list((tmp_path / "incoming").iterdir())
    spool.close()


def test_one_folder_serves_one_node(tmp_path: Path) -> None:
    first, second = Spool(tmp_path), Spool(tmp_path)
    first.open()
    assert second.in_use()
    with pytest.raises(ConfigError, match="another node"):
        second.open()
    first.close()
    assert not second.in_use()
    second.open()
    second.close()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.open()
    with pytest.raises(TypeError):
        spool.write_parts([[b"good"], ["no bytes"]])  # type: ignore[arg-type]
    assert not list((tmp_path / "incoming").iterdir())
    spool.close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Spool(tmp_path / "file").open()
