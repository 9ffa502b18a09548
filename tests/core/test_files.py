"""A file or folder is there whole or not at all, and a refusal of the system is one clear error."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from stillroom.core.errors import StageFailed
from stillroom.core.files import whole_folder, write_bytes, write_json, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    for content in ({"ü": 1.5}, {"b": [1, None]}):
        write_json(path, content)
    assert path.read_text(encoding="utf-8") == '{\n  "b": [\n    1,\n    null\n  ]\n}\n'
    assert names(path.parent) == ["a.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(StageFailed, match=f"^cannot write {path}: the disk is full; free some space and run the same command again"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EROFS, "the folder is read-only; choose another with --run."),
        (errno.EACCES, "no permission to write; choose another folder with --run."),
        (errno.EDQUOT, "the disk quota is used up; free some space"),
        (errno.EIO, "Input/output error."),
    ],
)
def test_each_refusal_has_its_remedy(code: int, remedy: str) -> None:
    with pytest.raises(StageFailed, match=remedy), writing("here"):
        raise OSError(code, os.strerror(code))


def test_a_folder_appears_when_it_is_full_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    for content in ("one", "two"):
        with whole_folder(path) as draft:
            (draft / content).write_text(content)
            assert names(path.parent) == [draft.name, *(["model"] if content == "two" else [])]
    assert names(path) == ["two"]
    assert names(path.parent) == ["model"]


def test_a_folder_whose_filling_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()

    def fill() -> None:
        with whole_folder(path) as draft:
            (draft / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert (names(tmp_path), names(path)) == (["model"], ["old"])


def test_an_old_folder_is_never_seen_half_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the old one is deleted, a run must not find what is left of it and take it for whole."""
    path = tmp_path / "model"
    for name in ("a", "b"):
        path.mkdir(exist_ok=True)
        (path / name).touch()
    seen: list[list[str]] = []
    real = shutil.rmtree

    def watched(folder: Path, **how: bool) -> None:
        seen.append(names(path) if path.exists() else [])
        real(folder, **how)

    monkeypatch.setattr(shutil, "rmtree", watched)
    with whole_folder(path) as draft:
        (draft / "c").touch()
        seen.clear()
    assert all(found == ["c"] for found in seen)


def test_a_file_where_a_folder_is_needed_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(StageFailed, match="a file stands where a folder is needed"), whole_folder(tmp_path / "model") as draft:
        (draft / "x").touch()
    assert (tmp_path / "model").read_text() == "mine"
    assert names(tmp_path) == ["model"]
