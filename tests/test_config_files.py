"""JSON and YAML of a checkpoint: plain values, bounded, the same to every reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.files import MAX_CONFIG_BYTES, CheckpointFiles


def folder(root: Path) -> CheckpointFiles:
    return CheckpointFiles(root, tuple(sorted(path.name for path in root.iterdir())))


class TestJson:
    def test_an_object_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "cfg.json").write_text('{"d_in": 4, "metadata": {"k": [1]}}')
        assert folder(tmp_path).json("cfg.json") == {"d_in": 4, "metadata": {"k": [1]}}

    @pytest.mark.parametrize("text", ['{"d_in": 4', "", "\x00\xff", '{"a": ' + "9" * 5000 + "}"])
    def test_damaged_json_names_the_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "cfg.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"config cfg\.json as JSON"):
            folder(tmp_path).json("cfg.json")

    def test_json_that_is_too_big_is_not_parsed(self, tmp_path: Path) -> None:
        (tmp_path / "cfg.json").write_text(json.dumps({"a": "x" * MAX_CONFIG_BYTES}))
        with pytest.raises(UnsafeFileError, match="above the limit of 4,194,304"):
            folder(tmp_path).json("cfg.json")

    @pytest.mark.parametrize("depth", [40, 100_000])
    def test_json_that_is_too_deep_is_refused(self, tmp_path: Path, depth: int) -> None:
        (tmp_path / "cfg.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(UnsafeFileError, match="nested deeper than 32 levels"):
            folder(tmp_path).json("cfg.json")

    def test_json_that_is_no_object_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cfg.json").write_text("[1, 2]")
        with pytest.raises(CheckpointError, match="a list instead of an object"):
            folder(tmp_path).json("cfg.json")

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('{"k": 1, "k": 2}', "the key 'k' twice"),
            ('{"a": {"k": 1, "b": 0, "k": 2}}', "the key 'k' twice"),
            ('{"k": ' + "9" * 30 + "}", "a number beyond 64 bits"),
            ('{"k": "\\ud800"}', "half a character"),
            ('{"\\ud800": 1}', "half a character"),
        ],
    )
    def test_json_that_readers_would_disagree_about_is_refused(
        self, tmp_path: Path, text: str, found: str
    ) -> None:
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(UnsafeFileError, match=rf"config cfg\.json .*{found}"):
            folder(tmp_path).json("cfg.json")

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_what_is_no_number_is_kept_as_text(self, tmp_path: Path, number: str) -> None:
        (tmp_path / "cfg.json").write_text(f'{{"loss": {number}, "k": 2}}')
        found = folder(tmp_path).json("cfg.json")
        assert found == {"loss": str(float(number)), "k": 2}

    def test_a_byte_order_mark_is_skipped_and_other_encodings_are_refused(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "cfg.json").write_bytes(b'\xef\xbb\xbf{"k": "\xc3\xa9"}')
        assert folder(tmp_path).json("cfg.json") == {"k": "é"}
        for encoding in ("latin-1", "utf-16", "utf-32"):
            (tmp_path / "cfg.json").write_bytes('{"k": "é"}'.encode(encoding))
            with pytest.raises(CheckpointError, match=r"config cfg\.json as JSON"):
                folder(tmp_path).json("cfg.json")


class TestYaml:
    def read(self, root: Path, text: str) -> dict[str, object]:
        (root / "config.yaml").write_text(text)
        return folder(root).yaml("config.yaml")

    def test_a_mapping_of_plain_values_is_read(self, tmp_path: Path) -> None:
        text = "model: m\nlayers: [0, 1]\nnested: {on: true, lr: 1.0e-3}\nnothing:\n"
        assert self.read(tmp_path, text) == {
            "model": "m",
            "layers": [0, 1],
            "nested": {"True": True, "lr": 1e-3},
            "nothing": None,
        }

    def test_dates_stay_as_they_are_written_and_keys_become_texts(self, tmp_path: Path) -> None:
        text = "day: 2024-01-02\nsince: 2024-01-02 03:04:05\n7: seven\n"
        assert self.read(tmp_path, text) == {
            "day": "2024-01-02",
            "since": "2024-01-02 03:04:05",
            "7": "seven",
        }

    @pytest.mark.parametrize("number", ["1:30", "1:30.5", "1" + ":59" * 1_000_000])
    def test_numbers_in_base_60_are_texts_as_in_yaml_1_2(self, tmp_path: Path, number: str) -> None:
        assert self.read(tmp_path, f"a: {number}\n") == {"a": number}

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("a: &x [1]\nb: *x\n", "an anchor or alias"),
            ("a: &x [1]\n", "an anchor or alias"),
            ("a: !!python/object/apply:os.system [ls]\n", "the tag .*os.system"),
            ("a: !!binary aGk=\n", "the tag"),
            ("a: !mine 1\n", "the tag '!mine'"),
            ("a: 1\na: 2\n", "the key 'a' twice"),
            ("? [1, 2]\n: 3\n", "a list or mapping as a key"),
            (f"a: {'9' * 30}\n", "beyond 64 bits"),
            (f"a: {'9' * 5000}\n", "a number of 5,000 characters"),
            (f"a: {'9' * 5000}.5\n", "a number of 5,002 characters"),
            (f"a: [{'b,' * 1_000_000}]\n", "more than 100,000 values"),
            (f"a: {'[' * 40}{']' * 40}\n", "nested deeper than 32 levels"),
            (f"a: {'[' * 100_000}\n", "nested deeper than 32 levels"),
            ("- 1\n", "a list instead of an object"),
            ("", "a NoneType instead of an object"),
            (f"a: {'x' * MAX_CONFIG_BYTES}\n", "above the limit of 4,194,304"),
        ],
    )
    def test_what_no_config_needs_is_refused(self, tmp_path: Path, text: str, found: str) -> None:
        with pytest.raises(UnsafeFileError, match=rf"config config\.yaml .*{found}"):
            self.read(tmp_path, text)

    @pytest.mark.parametrize("text", ["a: [", "a: 1\n---\nb: 2\n", "\ta: 1", "a: 0x_"])
    def test_damaged_yaml_names_the_file(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(CheckpointError, match=r"config config\.yaml as YAML"):
            self.read(tmp_path, text)
