import pytest
from wrenn.exceptions import WrennError

HOME = "/home/wrenn-user"


def test_text_bytes_and_parents(capsule):
    files = capsule.files
    files.write("/tmp/sdk/deep/er/text", "häl\n")
    assert files.read("/tmp/sdk/deep/er/text") == "häl\n"
    raw = bytes(range(256)) * 1000
    files.write("/tmp/sdk/raw", raw)
    assert files.read_bytes("/tmp/sdk/raw") == raw
    files.write("/tmp/sdk/raw", b"\x00\x01\x02\xff")
    assert files.read_bytes("/tmp/sdk/raw") == b"\x00\x01\x02\xff"
    owner = capsule.commands.run("stat -c %U /tmp/sdk/deep/er/text").stdout.strip()
    assert owner == "wrenn-user"


def test_listings(capsule):
    files = capsule.files
    files.write("/tmp/sdk-list/one", "eleven char")
    files.write("/tmp/sdk-list/sub/two", "x")
    entries = {entry.name: entry for entry in files.list("/tmp/sdk-list")}
    assert set(entries) == {"one", "sub"}
    one = entries["one"]
    assert (one.size, one.path, one.owner, one.group) == (11, "/tmp/sdk-list/one", "wrenn-user", "wrenn-user")
    assert one.permissions.startswith("-rw") and one.modified_at > 0 and one.type.value == "file"
    assert len(files.list("/tmp/sdk-list", depth=2)) == 3
    made = files.make_dir("/tmp/sdk-list/new")
    assert made.path == "/tmp/sdk-list/new" and made.type.value == "directory"
    assert files.make_dir("/tmp/sdk-list/new").name == "new"
    assert files.list("/tmp/sdk-list/new") == []


def test_exists_and_remove(capsule):
    files = capsule.files
    files.write("/tmp/sdk-gone/sub/file", "x")
    assert files.exists("/tmp/sdk-gone/sub/file") and not files.exists("/tmp/sdk-gone/sub/none")
    assert not files.exists("/tmp/never/was")
    files.remove("/tmp/sdk-gone/sub/file")
    assert not files.exists("/tmp/sdk-gone/sub/file")
    files.remove("/tmp/sdk-gone")
    assert not files.exists("/tmp/sdk-gone")
    with pytest.raises(WrennError):
        files.read("/tmp/sdk-gone/sub/file")


def test_streams_both_ways(capsule):
    piece = bytes(range(256)) * 256
    capsule.files.upload_stream("/tmp/sdk-stream", iter([piece] * 160))
    assert capsule.commands.run("stat -c %s /tmp/sdk-stream").stdout.strip() == str(160 * len(piece))
    back = b"".join(capsule.files.download_stream("/tmp/sdk-stream"))
    assert back == piece * 160
