"""Small files are whole or not there, and JSON says what was meant."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark import files
from hark.errors import DiskFull, RunError, UsageError
from peak_memory import allocating_at_most

NOT_FINITE = ("NaN", "Infinity", "-Infinity")
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
texts = st.text().filter(lambda text: text not in NOT_FINITE)
values = st.recursive(scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@settings(max_examples=50, deadline=None)
@given(values)
def test_json_reads_back_as_it_was_written(value: object) -> None:
    assert files.from_json(files.to_json(value)) == value


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), scalars))
def test_the_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert files.digest(dict(reversed(value.items()))) == files.digest(value)


def test_json_with_nan_and_infinity_is_still_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = files.to_json({"loss": math.nan, "worst": [math.inf, -math.inf]})
    assert json.loads(text, parse_constant=refuse) == {"loss": "NaN", "worst": ["Infinity", "-Infinity"]}
    assert math.isnan(files.from_json(text)["loss"])
    assert files.from_json(text)["worst"] == [math.inf, -math.inf]


def test_numpy_values_and_paths_become_plain_json() -> None:
    value = {"auc": np.float32(0.5), "nan": np.float32("nan"), "steps": np.arange(2), "path": Path("a/b")}
    assert files.to_json(value) == '{"auc": 0.5, "nan": "NaN", "steps": [0, 1], "path": "a/b"}'


def test_json_nested_a_million_deep_is_refused_like_any_other_bad_json() -> None:
    with pytest.raises(ValueError):
        files.from_json("[" * 1_000_000)


@pytest.mark.parametrize(
    ("text", "said"),
    [('"\\ud800"', "surrogates not allowed"), ('{"\\udfff": 1}', "surrogates not allowed"),
     ('{"a": 1, "b": {"c": 1, "c": 2}}', "a key comes twice")],
)  # fmt: skip
def test_json_that_means_nothing_for_certain_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        files.from_json(text)


def test_a_small_file_is_read_up_to_its_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"abc")
    assert files.read_small(path, largest_bytes=3) == b"abc"
    with pytest.raises(ValueError, match="more than 2 bytes"):
        files.read_small(path, largest_bytes=2)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with allocating_at_most(16 << 20), pytest.raises(ValueError, match="more than 4,194,304 bytes"):
        files.read_small(path)


def test_what_is_no_file_cannot_block_who_reads_a_small_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="not a regular file"):
            files.read_small(path)
    with pytest.raises(FileNotFoundError):
        files.read_small(tmp_path / "none")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for content in (b"old", b"new and longer", b""):
        files.write_atomically(path, content)
        assert path.read_bytes() == content
    assert files.children(tmp_path) == [path]


def test_a_failed_write_leaves_the_old_file_and_names_path_cause_and_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    files.write_atomically(path, b"old")

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "fsync", full)
    with pytest.raises(RunError, match=r"model: No space left on device; free some space and run"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert files.children(tmp_path) == [path]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, RunError)]
)
def test_a_full_disk_is_told_from_all_other_errors(number: int, kind: type[RunError], tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught, files.explained(tmp_path):
        raise OSError(number, "said by the system")
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{tmp_path}: said by the system; ")


def test_new_folders_are_on_the_disk_when_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in the one that holds it, from the top down."""
    synced = []
    monkeypatch.setattr(files, "fsync", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path, tmp_path / "a"]


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-folder" / "inside").mkdir(parents=True)
    (tmp_path / ".tmp-file").touch()
    (tmp_path / "model").touch()
    files.remove_leftovers(tmp_path)
    assert files.children(tmp_path) == [tmp_path / "model"]


def test_a_missing_folder_has_no_children_but_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    assert files.children(tmp_path / "missing") == []
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Not a directory"):
        files.children(tmp_path / "file")


def test_a_new_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "above" / "new"
    with files.new_folder(target) as folder:
        (folder / "file").write_text("all of it")
        assert not target.exists()
    assert [path.relative_to(target) for path in target.rglob("*")] == [Path("file")]
    assert list(target.parent.iterdir()) == [target]


def test_a_new_folder_that_could_not_be_filled_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="new: No space left on device; free some space"):  # noqa: SIM117
        with files.new_folder(tmp_path / "new") as folder:
            (folder / "file").write_text("half of")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_a_new_folder_may_take_an_empty_ones_place_and_nothing_elses(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with files.new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in ("empty", "link"):
        with pytest.raises(UsageError, match=f"{taken}: is not empty"), files.new_folder(tmp_path / taken):
            raise AssertionError
    with pytest.raises(RunError, match="file: Not a directory"), files.new_folder(tmp_path / "empty" / "file"):
        raise AssertionError
