"""`init` writes a configuration that can be trained as it is, whatever the store holds."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from support.selection import exhaustive
from support.waves import write_waves
from support.weatherbench import as_dataset, write_archive
from weathermixer.check import check
from weathermixer.cli import main
from weathermixer.config import Config, parse_config, read_config, settings
from weathermixer.data.making.synthetic import write_synthetic
from weathermixer.data.store.store import Store
from weathermixer.planning.machine_files import shipped_machines

OUT = Path("config.yaml")
WAVES = {
    "data.variables": ("temperature", "2m_temperature"),
    "data.levels": (850,),
    "data.static": ("land_sea_mask",),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of several kinds, by name, in a folder."""
    folder = tmp_path_factory.mktemp("stores")
    write_synthetic(folder / "all.zarr", times=60, grid=(17, 32))
    write_synthetic(folder / "odd.zarr", times=60, grid=(31, 10))
    waves = write_waves(folder / "waves.zarr")
    write_waves(folder / "seven hours.zarr", hours=7.0)
    archive = as_dataset(Store.open(waves)).drop_vars("land_sea_mask")  # which is no such mask
    write_archive(archive, folder / "archive.zarr")
    write_archive(archive.isel(time=slice(0, None, 2)), folder / "12.zarr")
    write_archive(archive.isel(time=slice(0, 1)), folder / "short.zarr")
    archive.to_netcdf(folder / "waves.nc", engine="h5netcdf")
    return folder


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def init(*words: str | Path) -> int:
    """The exit status of the command, run in this process."""
    try:
        main(["init", *map(str, words)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(
    ("name", "differing"),
    [
        ("all.zarr", {}),
        ("odd.zarr", {"model.patch": (5, 5)}),
        ("waves.zarr", WAVES),
        ("archive.zarr", WAVES | {"data.static": ()}),
        ("seven hours.zarr", WAVES | {"data.step_hours": 7.0}),
        ("12.zarr", WAVES | {"data.static": (), "data.step_hours": 12.0}),
    ],
)
def test_what_the_store_decides_is_set_and_the_rest_is_the_default(
    name: str, differing: dict[str, Any], stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init("--store", stores / name) == 0
    assert capsys.readouterr().out == "weathermixer train config.yaml --out run\n"
    assert not check(OUT).has_errors
    config, default = read_config(OUT), Config.model_validate({"data": {"store": stores / name}})
    assert config.data.store == stores / name
    for key, _, _ in settings():
        section, _, setting = key.partition(".")
        if setting and section != "parallel":
            usual = getattr(getattr(default, section), setting)
            assert getattr(getattr(config, section), setting) == differing.get(key, usual), key


@pytest.mark.parametrize("name", ["all.zarr", "waves.zarr"])
def test_defaults_behind_a_mark_are_what_is_set_without_it(name: str, stores: Path) -> None:
    assert init("--store", stores / name) == 0
    text = OUT.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 100 or str(stores) in text
    shown = re.sub(r"^  #(?! \w)", "  ", text, flags=re.MULTILINE)
    unmarked = parse_config(OUT, text=shown)
    assert isinstance(unmarked, Config)
    assert unmarked == read_config(OUT)
    assert len(unmarked.training.model_fields_set) > 10
    meanings = {key: meaning for key, _, meaning in settings()}
    flat = re.sub(r"\n\s+# ", " ", text)
    for section in Config.model_fields:
        for key in getattr(unmarked, section).model_fields_set if section != "preset" else ():
            assert meanings[f"{section}.{key}"] in flat


@pytest.mark.parametrize(
    ("gpus", "machine"), [(2, None), (4, "h100"), *exhaustive((6, "a100-40gb"))]
)
def test_the_mesh_is_the_one_that_plan_takes(
    gpus: int, machine: str | None, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--gpus", str(gpus), *(["--machine", machine] if machine else [])]
    assert init("--store", stores / "all.zarr", *asked) == 0
    command = shlex.split(capsys.readouterr().out)
    main(["plan", "config.yaml", "--json", *asked])
    best = json.loads(capsys.readouterr().out)["best"]
    parallel = read_config(OUT).parallel
    assert {axis: getattr(parallel, axis) for axis in best} == best
    if machine is None:
        assert command[-2:] == ["--nproc", "2"]
    else:
        words = dict(zip(command[3::2], command[4::2], strict=True))
        assert int(words["--nodes"]) * int(words["--ranks-per-node"]) == gpus
        assert command[1] == "submit"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--store", "absent.zarr"], "there is no store at"),
        (["--store", "waves.nc"], "waves.nc is not Zarr"),
        (["--store", "short.zarr"], "nothing can be learned from"),
        (["--store", "all.zarr", "--out", "there.yaml"], "there.yaml exists already"),
        (["--store", "all.zarr", "--out", "no/c.yaml"], "no/c.yaml cannot be written (No such"),
        (["--store", "all.zarr", "--machine", "abacus"], "the machine abacus is neither a file"),
        (["--store", "s3://user:secret@bucket/x.zarr"], "carries credentials"),
        ([], "There is nobody to ask for a store: give --store."),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    words: list[str],
    said: str,
    stores: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    Path("there.yaml").write_text("mine")
    assert init(*(stores / word if (stores / word).exists() else word for word in words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (error,) = (line for line in printed.err.splitlines() if line.startswith("Error: "))
    assert said in error
    assert "secret" not in printed.err
    assert {path.name: path.read_text() for path in Path().iterdir()} == {"there.yaml": "mine"}


class Answers(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_asks_for_what_was_not_given(
    stores: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Answers(f"{stores / 'all.zarr'}\nh100\n0\n2\n"))
    assert init() == 0
    printed = capsys.readouterr()
    assert all(name in printed.err for name in shipped_machines())
    assert printed.err.count("Ranks, in all") == 2  # zero is none
    assert printed.out.splitlines()[-1].startswith("weathermixer submit config.yaml --out run")
    parallel = read_config(OUT).parallel
    assert parallel.data * (parallel.domain or 0) * (parallel.tensor or 0) == 2


def test_a_schema_beside_it_is_named_for_editors(stores: Path) -> None:
    Path("weathermixer.schema.json").write_text("{}")
    assert init("--store", stores / "all.zarr") == 0
    assert OUT.read_text().startswith("# yaml-language-server: $schema=weathermixer.schema.json\n")


def test_with_a_store_it_asks_for_nothing(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Answers(""))
    assert init("--store", stores / "all.zarr", "--out", "mine.yaml") == 0
    assert Path("mine.yaml").exists()
