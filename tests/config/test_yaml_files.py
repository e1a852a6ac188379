"""Files as people write them, save them and mistake them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from weathermixer.config import Config, Problem, parse_config, read_config
from weathermixer.config.yaml_files import Unreadable, parse_yaml
from weathermixer.errors import UserError

DATA = "data: {store: planet.zarr}\n"


def read(folder: Path, content: str | bytes) -> Config:
    return read_config(write(folder, content))


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problems(folder: Path, content: str | bytes) -> list[Problem]:
    found = parse_config(write(folder, content))
    assert not isinstance(found, Config)
    assert all("\n" not in problem.sentence() for problem in found)
    return found


@pytest.mark.parametrize(
    ("text", "where", "lines"),
    [
        ("training:\n  steps: 5\nmodel:\ntraining: {seed: 1}\n", "training", "lines 2 and 5"),
        ("training: {steps: 1, steps: 2}\n", "training.steps", "line 2"),
        ("training:\n  steps: 1\n\n  steps: 1\n", "training.steps", "lines 3 and 5"),
        (
            "training:\n  rollout:\n    0: 1\n    0: 2\n",
            "training.rollout.0",
            "lines 4 and 5",
        ),
        ("'training': {}\n\"training\": {}\n", "training", "lines 2 and 3"),
    ],
)
def test_a_key_that_is_set_twice_is_named_with_both_lines(
    text: str, where: str, lines: str, tmp_path: Path
) -> None:
    (problem,) = problems(tmp_path, DATA + text)
    assert (problem.severity, problem.where) == ("error", where)
    assert f"is set twice, in {lines} of" in problem.what


@pytest.mark.parametrize("text", ["parallel:\n  # domain: 2\n", "parallel:\n", "parallel: {}\n"])
def test_a_section_in_which_nothing_is_set_has_its_defaults(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, DATA + text) == read(tmp_path, DATA)


@pytest.mark.parametrize("text", ["", "\n\n", "# data: {store: s}\n# model:\n", "---\n", "null"])
def test_a_file_in_which_nothing_is_set_lacks_a_store(text: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, text)
    assert (problem.where, problem.what) == ("data.store", "is not set")


@pytest.mark.parametrize("key", ["model.channels", "training.steps", "data.levels", "preset"])
def test_a_key_without_a_value_is_named(key: str, tmp_path: Path) -> None:
    section, _, name = key.rpartition(".")
    text = f"{section}:\n  {name}:\n" if section else f"{name}:\n"
    store = "" if section == "data" else DATA
    found = {problem.where: problem.what for problem in problems(tmp_path, store + text)}
    assert found[key] == "has no value"


def test_null_leaves_open_what_can_be_left_open(tmp_path: Path) -> None:
    text = "preset: published\ndata: {store: s, train: null}\nparallel:\n  domain:\n"
    config = read(tmp_path, text)
    assert config.data.train is None
    assert config.parallel.domain is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("1.e-4", 1e-4),
        (".5", 0.5),
        ("+1", 1),
        ("-0", 0),
        ("1_000", 1000),
        ("0500", 500),
        ("0o17", 15),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("2020-01-01T00:00:00", "2020-01-01T00:00:00"),
        ("yes", "yes"),
        ("off", "off"),
        ("True", True),
        ("~", None),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[1, [a, {b: 2}]]", [1, ["a", {"b": 2}]]),
    ],
)
def test_scalars_mean_what_they_mean_in_yaml_1_2(text: str, value: object) -> None:
    result, found = parse_yaml(text, "text", verbatim=(), below=("a", "b"))
    assert found == []
    assert result == value
    assert type(result) is type(value)


# PyYAML leaves "1e5" without quotes, which is a number in YAML 1.2; a letter before it is not.
_TEXTS = st.text().map(lambda text: f"x{text}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_another_library_writes_is_read_back(value: object) -> None:
    result, found = parse_yaml(yaml.safe_dump(value), "text", verbatim=(), below=("a", "b"))
    assert found == []
    assert result == value


def test_a_path_and_a_period_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    config = read(tmp_path, "data:\n  store: 0500\n  train: 2020-01-01/2020-02-01\n")
    assert config.data.store == Path("0500")
    assert config.data.train == "2020-01-01/2020-02-01"
    (problem,) = problems(tmp_path, "data: {store: s, train: 2020-01-01}")
    assert problem.where == "data.train"
    assert "is not START/STOP" in problem.remedy


def test_anchors_aliases_and_merge_keys_do_what_yaml_says(tmp_path: Path) -> None:
    text = (
        "training: {steps: &steps 700}\n"
        "checkpoint: {every: *steps}\n"
        "data:\n  <<: [{store: a, levels: [500]}, {store: b, step_hours: 12}]\n  store: own\n"
    )
    config = read(tmp_path, text)
    assert config.checkpoint.every == 700
    assert config.data.store == Path("own")
    assert (config.data.levels, config.data.step_hours) == ((500,), 12.0)


_LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training:\n\tsteps: 5\n", "line 2: a tab"),
        ("data: {store: s}\n---\nmodel: {}\n", "line 2: a second document"),
        ("data:\n  store: a: b\n", "line 2: is not valid YAML"),
        ("data: [", "is not valid YAML"),
        ("data: *unknown", "is not valid YAML"),
        ("data: {store: s}\n\x00", "line 2: the character U+0000"),
        (_LAUGHS, "too large or nested too deeply"),
        ("a: &a {b: *a}", "too large or nested too deeply"),
        ("a: " + "[" * 50 + "]" * 50, "too large or nested too deeply"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("# Größe\n# données\n".encode("latin-1"), "line 1: byte 4 of the file, 0xF6, is not"),
        ("data: {store: s}\n".encode("utf-16-le"), "U+0000"),
        (b"\xff\xfe\x41", "UTF-16"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "0x89"),
        (b"# " + b"a" * 2_000_000, "larger than 1 MiB"),
        ("- a\n- b\n", "must hold sections"),
        ("just text", "must hold sections"),
        ("data: {store: s}\ntraining:\n  steps:20\n", "a space after the colon"),
        ("data: {store: s}\n? [a, b]\n: c\n", "a key is a list or a table (line 2)"),
        ("data: {store: s}\n5: c\n", "5: there is no such key"),
        ("data: {store: s}\ntrainig:\n  steps: 5\n", "no such section; did you mean training?"),
        ("data: {store: s}\nmodel: {<<: 5}\n", "'<<' merges what is no table"),
        ("data: {store: s}\nmodel: {channels: !!int x}\n", "model.channels: 'x' is no int"),
        ("data: {store: s}\nmodel: {channels: !mine 5}\n", "model.channels: the tag !mine"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(
    text: str | bytes, said: str, tmp_path: Path
) -> None:
    (problem,) = problems(tmp_path, text)
    assert said in problem.sentence()


@pytest.mark.parametrize(
    "encoded",
    [
        lambda text: text.encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace("\n", "\r\n").encode(),
    ],
)
def test_the_usual_encodings_and_ends_of_lines_are_read(encoded: object, tmp_path: Path) -> None:
    assert callable(encoded)
    config = read(tmp_path, encoded("data:\n  store: données.zarr\ntraining:\n  steps: 500\n"))
    assert config.data.store == Path("données.zarr")
    assert config.training.steps == 500


def test_reading_executes_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    text = f"{DATA}training: !!python/object/apply:os.mkdir ['{mark}']\n"
    (problem,) = problems(tmp_path, text)
    assert problem.where == "training"
    assert "!!python/object/apply:os.mkdir" in problem.what
    assert not mark.exists()


def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "absent.yaml", r"cannot be read \(No such file.*correct the path"),
        (tmp_path, r"cannot be read \(Is a directory\): give the YAML file"),
        (Path("--training.steps=4"), "write CONFIG before its settings"),
        (Path("x" * 300), "cannot be read"),
    ):
        with pytest.raises(UserError, match=said):
            parse_config(path)


@given(st.text(alphabet="ab:[]{}&*!<>|-#'\"%@\n\t ,0.5~?", max_size=40) | st.text(max_size=40))
def test_any_text_is_values_or_a_problem(text: str) -> None:
    try:
        parse_yaml(text, "text", verbatim=())
    except Unreadable as error:
        assert error.problem.what
        assert error.problem.remedy


@given(st.binary(max_size=60))
def test_any_bytes_are_a_configuration_or_problems(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        result = parse_config(write(Path(folder), content))
    assert isinstance(result, Config) or result
