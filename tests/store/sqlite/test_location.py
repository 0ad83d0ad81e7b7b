"""Where the database lies."""

from pathlib import Path

import pytest

from kvqueue_fastapi.errors import InvalidOptionError, StoreError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.sqlite import location
from kvqueue_fastapi.store.sqlite.location import path_of, refuse_network
from tests.store.given import claim, mail, send


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("queue.db", "{cwd}/queue.db"),
        ("sqlite:///queue.db", "{cwd}/queue.db"),
        ("sqlite:///a/b.db", "{cwd}/a/b.db"),
        ("/var/queue.db", "/var/queue.db"),
        ("sqlite:////var/queue.db", "/var/queue.db"),
        ("./:foo", "{cwd}/:foo"),
        ("a?b#c%20 d.db", "{cwd}/a?b#c%20 d.db"),
        (":memory:", ":memory:"),
        ("sqlite:///:memory:", ":memory:"),
    ],
)
def test_url_means_a_path(url: str, path: str) -> None:
    assert path_of(url) == path.format(cwd=Path.cwd())


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "Filename cannot be empty. "),
        ("sqlite:///", "Filename cannot be empty. "),
        (":foo", "Filename cannot start with ':' unless prefixed with './': ':foo'. "),
        ("sqlite:///:foo", "Filename cannot start with ':' unless prefixed with './': ':foo'. "),
        ("mysql://localhost/x", "'mysql://localhost/x' is neither a path nor "),
        ("sqlite://queue.db", "'sqlite://queue.db' is neither a path nor "),
        ("a\0b", "'a\\x00b' is neither a path nor "),
    ],
)
async def test_url_that_names_no_file_is_refused(url: str, text: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        await open_store(url, KvQueueSettings())

    assert str(caught.value).startswith(text)


async def test_file_of_any_name_can_be_opened(tmp_path: Path, settings: KvQueueSettings) -> None:
    path = tmp_path / "a?b#c%20 d&mode=ro ä.db"

    store = await open_store(str(path), settings)
    await send(store, mail())
    counts = await store.admin.counts()
    await store.close()

    assert [one.ready for one in counts] == [1]
    assert path.exists()


async def test_queue_in_memory_is_private(settings: KvQueueSettings) -> None:
    first = await open_store(":memory:", settings)
    second = await open_store(":memory:", settings)
    await send(first, mail())

    assert await claim(second) == []
    assert len(await claim(first)) == 1
    await first.close()
    await second.close()


MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:20 / /mnt/share rw,relatime shared:2 master:1 - nfs4 server:/share rw
24 22 0:21 / /mnt/my\\040share rw - cifs //server/share rw
25 23 0:22 / /mnt/share/local rw - tmpfs tmpfs rw
26 22 0:23 / /mnt/home rw - fuse.sshfs me@server: rw
27 22 0:23 / /mnt/over rw - nfs server:/share rw
28 22 0:23 / /mnt/over rw - ext4 /dev/vdb rw
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "mountinfo"
    found.write_text(MOUNTS)
    monkeypatch.setattr(location, "_MOUNTS", found)
    return found


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/mnt/share/queue.db", "nfs4"),
        ("/mnt/share/a/b/queue.db", "nfs4"),
        ("/mnt/my share/queue.db", "cifs"),
        ("/mnt/home/queue.db", "fuse.sshfs"),
    ],
)
@pytest.mark.usefixtures("mounts")
def test_network_file_system_is_refused(path: str, kind: str) -> None:
    with pytest.raises(StoreError, match=rf"network file system \({kind}\).*local disk"):
        refuse_network(path)


@pytest.mark.parametrize(
    "path", ["/queue.db", "/mnt/queue.db", "/mnt/share/local/queue.db", "/mnt/over/queue.db"]
)
@pytest.mark.usefixtures("mounts")
def test_local_file_system_is_fine(path: str) -> None:
    refuse_network(path)


def test_system_without_a_list_of_mounts_is_trusted(mounts: Path) -> None:
    mounts.unlink()

    refuse_network("/mnt/share/queue.db")


@pytest.fixture
def link(tmp_path: Path, mounts: Path) -> Path:
    """A database that is a link to another file system."""
    (tmp_path / "far").mkdir()
    mounts.write_text(f"{MOUNTS}29 22 0:24 / {tmp_path}/far rw - nfs server:/far rw\n")
    path = tmp_path / "queue.db"
    path.symlink_to(tmp_path / "far" / "queue.db")
    return path


async def test_link_to_a_network_file_system_is_refused(link: Path) -> None:
    with pytest.raises(StoreError, match="network file system"):
        await open_store(str(link), KvQueueSettings())
