"""Ranks start alike whatever the user's folders, paths, files and locale are called or hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import weathermixer
from support.processes import Processes
from support.selection import exhaustive
from support.waves import wave_config, write_waves
from weathermixer.interpreter import program, reordered_path

ASCII = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
}
SHADOWED = ("queue", "numpy", "torch", "typing", "socket", "click", "multiprocessing", "zarr")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of a few steps, with names that no ASCII holds."""
    folder = tmp_path_factory.mktemp("données 100 % #1?")
    settings = wave_config(
        write_waves(folder / "vagues à 2°.zarr", times=20),
        training={"steps": 2, "warmup_steps": 1, "dtype": "float32"},
    ).model_dump(mode="json", exclude_unset=True)
    path = folder / "réglages.yaml"
    text = yaml.safe_dump(settings, allow_unicode=True)
    path.write_text(f"# °\n{text}", encoding="utf-8")
    return path


@pytest.fixture
def shadows(tmp_path: Path) -> Path:
    """A folder with modules of a user's that have names of Python's own and of installed ones."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in SHADOWED:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the user')", "utf-8")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "température 100% a:b;c&d",
        *exhaustive("with space", "a%20b #1 what?", "q'\"uotes"),
    ],
)
def test_ranks_meet_in_a_temporary_folder_of_any_name(
    name: str, processes: Processes, tmp_path: Path
) -> None:
    from support.ranked import RANKED

    (tmp_path / name).mkdir()
    environment = {"TMPDIR": str(tmp_path / name)}
    words = (RANKED, "work", "count", tmp_path, "--nproc", "2")
    assert processes.run(*words, environment=environment) == (0, "2 ranks with 1 threads\n", "")
    assert not list((tmp_path / name).iterdir())


@pytest.mark.exhaustive
@pytest.mark.parametrize("entries", [":.", *exhaustive(None, "", ".", "mine")])
def test_modules_of_the_user_do_not_stand_in_for_others(
    entries: str | None, processes: Processes, shadows: Path, config: Path, tmp_path: Path
) -> None:
    own = str(Path(weathermixer.__file__).parents[1])
    environment = {"PYTHONPATH": own if entries is None else f"{entries}:{own}"}
    words = ("-m", "weathermixer", "train", config, "--out", tmp_path / "run", "--nproc", "2")
    folder = shadows.parent if entries == "mine" else shadows
    status, _, err = processes.run(*words, environment=environment, cwd=folder)
    assert status == 0, err
    assert err.splitlines()[-1] == f"wrote {tmp_path / 'run'}"


def test_worker_processes_start_beside_modules_of_the_user(
    processes: Processes, shadows: Path, tmp_path: Path
) -> None:
    own = str(Path(weathermixer.__file__).parents[1])
    words = ("-m", "weathermixer", "data", "synthetic", tmp_path / "s.zarr", "--times", "40")
    status, _, err = processes.run(
        *words, "--grid", "32x64", environment={"PYTHONPATH": f":.:{own}"}, cwd=shadows
    )
    assert status == 0, err


@pytest.mark.exhaustive
def test_a_program_by_its_path_runs_the_package_around_it(
    processes: Processes, tmp_path: Path
) -> None:
    environment = {"PYTHONPATH": ""}
    status, out, _ = processes.run(*program("--version")[1:], environment=environment, cwd="/")
    assert (status, out) == (0, f"weathermixer, version {weathermixer.__version__}\n")


@pytest.mark.exhaustive
def test_no_locale_stands_in_the_way_of_words_or_names(
    processes: Processes, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "modèle"
    words = ("-m", "weathermixer", "train", config, "--out", run)
    status, _, err = processes.run(*words, "--nproc", "2", environment=ASCII)
    assert status == 0, err
    assert "mesh domain " not in err or "\\xd7" in err
    assert err.splitlines()[-1] == f"wrote {tmp_path}/mod\\xe8le"
    assert (run / "config.yaml").exists()
    # What is told of a mistake is told as well.
    status, _, err = processes.run(*words, "--parallel.domain=3", environment=ASCII)
    assert status == 2
    assert "data (1) \\xd7 domain (3)" in err or "modèle".encode("unicode_escape").decode() in err


def test_a_table_with_signs_is_printed_whatever_the_locale(
    processes: Processes, config: Path
) -> None:
    store = next(config.parent.glob("*.zarr"))
    words = ("-m", "weathermixer", "data", "inspect", store)
    status, out, err = processes.run(*words, environment=ASCII)
    assert status == 0, err
    assert "8 × 16" in out  # results are UTF-8 where the terminal names nothing better


# --- the search path for modules


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    yield str(Path.cwd())


def test_the_current_folder_comes_last(here: str) -> None:
    path = [here, "/site"]
    assert reordered_path(path, "", runs_as_module=True) == ["/site", here]
    assert reordered_path(path, "", runs_as_module=False) == path
    assert reordered_path(["", "/site"], "", runs_as_module=True) == ["/site", here + "/"]


def test_relative_entries_come_last_and_absolute_ones_stay(here: str) -> None:
    path = ["/bin", f"{here}/lib", "/mine", "/site"]
    expected = ["/bin", "/mine", "/site", f"{here}/lib"]
    assert reordered_path(path, "lib:/mine", runs_as_module=False) == expected
    assert reordered_path(path, "./lib/:/mine", runs_as_module=False) == expected


def test_a_folder_that_is_given_both_ways_stays(here: str) -> None:
    path = [f"{here}/lib", "/site"]
    assert reordered_path(path, f"lib:{here}/lib", runs_as_module=False) == path
