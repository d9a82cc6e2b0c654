"""Files of the user: read without hanging, written without destroying, named without loss."""

from __future__ import annotations

import contextlib
import doctest
import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cytoserve_files as files
import pytest
from cytoserve_files import names, writing
from hypothesis import given
from hypothesis import strategies as st

RUN = [sys.executable, "-c", "import sys, cytoserve_files as f; f.write_bytes(sys.argv[1], sys.argv[2].encode())"]


def alone(folder: Path) -> list[str]:
    """Return what lies in a folder: nothing made aside may stay."""
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """Bind one file over another, where this user may."""
    done = subprocess.run(["mount", "--bind", source, target], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no bind mounts here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


def device(path: Path) -> Path:
    """Make a node of our own that swallows everything (the null device's numbers), never the machine's."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.open("wb").close()
    except PermissionError:
        pytest.skip("no device nodes may be made, or used, here")
    return path


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_new_file_has_the_usual_rights_and_its_folders_are_made(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b.json", "é")
    usual = tmp_path / "usual"
    usual.touch()
    assert (tmp_path / "a" / "b.json").read_bytes() == "é".encode()
    assert (tmp_path / "a" / "b.json").stat().st_mode == usual.stat().st_mode
    assert alone(tmp_path / "a") == ["b.json"]


def test_rights_and_owner_of_a_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o640)
    with contextlib.suppress(PermissionError):
        os.chown(path, 12345, 12346)
    before = path.stat()
    files.write_bytes(path, b"new")
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino  # renamed: no reader sees a part


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_followed(tmp_path: Path, dangling: bool) -> None:
    (tmp_path / "else").mkdir()
    target, link = tmp_path / "else" / "target", tmp_path / "link"
    if not dangling:
        target.write_text("old")
    link.symlink_to(Path("else") / "target")
    files.check_output(link)
    files.write_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert alone(tmp_path / "else") == ["target"]


def test_a_second_name_keeps_the_old_content(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "backup"
    first.write_text("old")
    os.link(first, second)
    files.write_bytes(first, b"new")
    assert first.read_bytes() == b"new"
    assert second.read_bytes() == b"old"


def test_a_device_is_written_through(tmp_path: Path) -> None:
    path = device(tmp_path / "sink")
    files.check_output(path)
    files.write_bytes(path, b"x" * 100_000)
    assert stat.S_ISCHR(path.stat().st_mode)
    assert alone(tmp_path) == ["sink"]


def test_a_named_pipe_is_written_through(tmp_path: Path) -> None:
    path, data, got = tmp_path / "pipe", os.urandom(300_000), []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    files.check_output(path)
    files.write_bytes(path, data)
    reader.join(20)
    assert got == [data]
    assert path.is_fifo()


def test_a_pipe_without_a_reader_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(writing, "READER_WAIT_S", 0.2)
    with pytest.raises(files.NotWritable, match="nobody reads"):
        files.write_bytes(tmp_path / "pipe", b"x")


def test_a_reader_that_stops_reading_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(writing, "STALL_S", 0.2)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(files.NotWritable, match="took nothing"):
            files.write_bytes(tmp_path / "pipe", b"x" * 1_000_000)
    finally:
        os.close(reader)


def test_process_substitution_gets_everything(tmp_path: Path) -> None:
    command = f'"$0" -c "$1" >(cat > {tmp_path}/got; touch {tmp_path}/done) words; echo $?'
    done = subprocess.run(["bash", "-c", command, RUN[0], RUN[2]], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0", done.stderr
    for _ in range(100):
        if (tmp_path / "done").exists():
            break
        time.sleep(0.05)
    assert (tmp_path / "got").read_text() == "words"


def test_a_descriptor_that_appends_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    with log.open("ab") as out:
        subprocess.run([*RUN, "/dev/stdout", "words"], stdout=out, check=True)
    assert log.read_text() == "before\nwords"


def test_a_descriptor_that_is_closed_or_for_reading_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with (tmp_path / "x").open("rb") as reading:
        with pytest.raises(files.NotWritable, match="Permission denied"):
            files.check_output(f"/dev/fd/{reading.fileno()}")
        number = os.dup(reading.fileno())
    os.close(number)
    with pytest.raises(files.NotWritable, match="Bad file descriptor"):
        files.check_output(f"/dev/fd/{number}")
    with (tmp_path / "x").open("ab") as writing:
        files.check_output(f"/dev/fd/{writing.fileno()}")


def test_a_bind_mounted_file_is_written_in_place(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "out.json"
    source.write_text("a longer text than the new one")
    target.touch()
    with bound(source, target):
        files.check_output(target)
        files.write_bytes(target, b"new")
    assert source.read_bytes() == b"new"
    assert alone(tmp_path) == ["out.json", "source"]


def test_what_cannot_be_written_in_place_gets_its_old_content_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    first.write_bytes(b"old content")
    real, calls = os.write, []

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)

    def full(number: int, data: Any) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(number, bytes(data)[:3])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(files.NotWritable, match="No space"):
        files.write_bytes(first, b"new content that does not fit")
    assert first.read_bytes() == b"old content"
    assert alone(tmp_path) == ["first"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in ("out.json", "new.json"):
        with pytest.raises(files.NotWritable, match="No space"):
            files.write_bytes(tmp_path / name, b"new and half")
    assert path.read_bytes() == b"old"
    assert alone(tmp_path) == ["out.json"]


def test_an_error_while_a_file_is_filled_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"old")

    def fail() -> None:
        with files.output_file(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert alone(tmp_path) == ["weights"]


def test_a_finished_file_is_moved_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "model").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "store" / "model")
    (tmp_path / "made").write_text("new")
    files.install(tmp_path / "made", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "store" / "model").read_text() == "new"
    assert not (tmp_path / "made").exists()


def socket_at(path: Path) -> Path:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.close()
    return path


def folder_at(path: Path) -> Path:
    path.mkdir()
    return path


def below_a_file(path: Path) -> Path:
    path.write_text("a file")
    return path / "out.json"


def loop_at(path: Path) -> Path:
    path.symlink_to(path)
    return path


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (folder_at, "is a folder"),
        (socket_at, "socket"),
        (below_a_file, "ot a directory"),
        (loop_at, "symbolic links"),
        (lambda path: path.with_name("n" * 300), "name too long"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_name(
    tmp_path: Path, make: Callable[[Path], Path], word: str
) -> None:
    path = make(tmp_path / "thing")
    before = alone(tmp_path)
    with pytest.raises(files.NotWritable, match=word) as wrong:
        files.write_bytes(path, b"x")
    assert str(path) in str(wrong.value)
    if make is not socket_at:  # only writing shows that nobody listens
        with pytest.raises(files.NotWritable):
            files.check_output(path)
    assert alone(tmp_path) == before


def test_a_read_only_file_system_is_found_before_the_work(tmp_path: Path) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no mounts here")
    try:
        for check, path in (
            (files.check_output, tmp_path / "a" / "out"),
            (files.check_output_folder, tmp_path),
            (files.check_output_folder, tmp_path / "new"),
        ):
            with pytest.raises(files.NotWritable, match="Read-only file system"):
                check(path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_write_protected_file_is_refused_to_an_ordinary_user() -> None:
    code = """
import os, sys, cytoserve_files as f
if os.geteuid() == 0:
    os.setegid(65534); os.seteuid(65534)
for name in ('free', 'kept'):
    for work in (f.check_output, lambda p: f.write_bytes(p, b'new')):
        try:
            work(os.path.join(sys.argv[1], name))
            print('done', name)
        except f.NotWritable as error:
            print('refused', name)
"""
    # Not tmp_path: pytest's folders are closed to the user that a test run by root becomes.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        for name, mode in (("free", 0o666), ("kept", 0o444)):
            (Path(folder) / name).write_text("old")
            (Path(folder) / name).chmod(mode)
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[:4] == ["done free", "done free", "refused kept", "refused kept"]
        assert (Path(folder) / "kept").read_text() == "old"
        assert alone(Path(folder)) == ["free", "kept"]


def test_checking_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    os.utime(path, (1, 1))
    for name in ("out", "new", "a/b/c"):
        files.check_output(tmp_path / name)
    files.check_output_folder(tmp_path / "folder" / "deep")
    assert path.stat().st_mtime == 1
    assert alone(tmp_path) == ["out"]


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: os.mkfifo(path) or path, "a named pipe"),
        (folder_at, "a folder"),
        (socket_at, "a socket"),
        (device, "a device"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], Path], word: str) -> None:
    path = make(tmp_path / "thing")
    started = time.monotonic()
    with pytest.raises(files.NotRegularFile, match=word):
        files.read_bytes(path)
    assert time.monotonic() - started < 5


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("é\r\nb".encode())
    assert files.read_text(tmp_path / "a") == "é\nb"
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / "gone")


# -- names -------------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_every_name_is_shown_as_valid_text_and_found_again(raw: bytes) -> None:
    path = os.fsdecode(raw)
    text = files.shown(path)
    text.encode("utf-8")
    assert os.fsencode(files.path_of(text)) == os.fsencode(Path(path))


@given(st.text(st.sampled_from("\\xeu0919a/\udce9\ud800")), st.text(st.sampled_from("\\xeu0919a/\udce9\ud800")))
def test_two_names_are_never_shown_alike(one: str, other: str) -> None:
    assert (files.shown(one) == files.shown(other)) == (one == other)


def test_usual_names_stay_as_they_are() -> None:
    for name in ("field.png", "Ä ö/ß.tif", r"C:\scans\field.png", "[red].png"):
        assert files.shown(name) == name


def test_doctests() -> None:
    result = doctest.testmod(names)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_package_of_files_imports_nothing_but_the_standard_library() -> None:
    code = "import sys; before = set(sys.modules); import cytoserve_files; print(set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    foreign = {name.split(".")[0] for name in eval(run.stdout)} - set(sys.stdlib_module_names)
    assert foreign == {"cytoserve_files"}
