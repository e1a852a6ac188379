"""A trained network as one file: what it forecasts, on which ranks, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from oracles.layers import Held
from support.forecast_runs import forecast_on, write_run
from support.networks import held_parameters
from support.ranks import Pool
from support.waves import wave_config, write_waves
from weathermixer.config import Config
from weathermixer.errors import UserError
from weathermixer.export import export_run
from weathermixer.forecast.forecast import forecast
from weathermixer.jigsaw.layout import Layout
from weathermixer.runs.run import Run
from weathermixer.training.loop import TrainingLoop
from weathermixer.training.notices import Notices
from weathermixer.training.trainer import train

DOCUMENT = Path(__file__).parents[1] / "docs" / "export.md"
INIT, STEPS = "2001-01-03,2001-01-05", 3
MODEL = {"overlap": 2, "smoothing": 1}


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waves(tmp_path_factory.mktemp("waves") / "waves.zarr")


@pytest.fixture(scope="module")
def run(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_run(
        tmp_path_factory.mktemp("run") / "run", waves, scale=0.05, model=MODEL, input_times=2
    )
    (path / "origin.json").unlink()
    return path


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "waves.safetensors"
    export_run(run, out)
    return out


def test_an_export_forecasts_what_its_run_does(
    run: Path, exported: Path, waves: Path, tmp_path: Path
) -> None:
    forecast(run, waves, INIT, STEPS, tmp_path / "run.zarr")
    forecast(exported, waves, INIT, STEPS, tmp_path / "export.zarr")
    theirs, ours = (xr.open_zarr(tmp_path / f"{name}.zarr") for name in ("run", "export"))
    xr.testing.assert_equal(theirs, ours)
    assert ours.attrs["checkpoint"] == exported.name


@pytest.mark.parametrize(
    "layout", [Layout(domain=3), Layout(domain=2, tensor=2), Layout(data=2, tensor=2)], ids=str
)
def test_ranks_read_their_parts_of_an_export(
    pool: Pool, layout: Layout, run: Path, exported: Path, waves: Path, tmp_path: Path
) -> None:
    for source, name in ((run, "run"), (exported, "export")):
        arguments = (source, waves, tmp_path / f"{name}.zarr", INIT, STEPS)
        assert set(pool.run(forecast_on, layout, *arguments)) == {None}
    theirs, ours = (xr.open_zarr(tmp_path / f"{name}.zarr") for name in ("run", "export"))
    xr.testing.assert_equal(theirs, ours)


def begun(config: Config, out: Path, source: Path) -> dict[str, Held]:
    with TrainingLoop.begin(config, out, source=source, notices=Notices(lambda _: None)) as loop:
        return held_parameters(loop.state.model)


def small_config(waves: Path) -> Config:
    return wave_config(
        waves,
        training={"steps": 3, "warmup_steps": 1},
        model={"patch": (4, 4), **MODEL},
        data={"input_times": 2},
    )


def test_a_training_begins_with_an_export_as_with_its_run(
    run: Path, exported: Path, waves: Path, tmp_path: Path
) -> None:
    config = small_config(waves)
    theirs = begun(config, tmp_path / "a", run)
    ours = begun(config, tmp_path / "b", exported)
    assert theirs.keys() == ours.keys()
    for name, held in theirs.items():
        assert torch.equal(ours[name].tensor, held.tensor), name


def test_a_training_from_an_export_goes_on_with_the_same_words(
    run: Path, exported: Path, waves: Path, tmp_path: Path
) -> None:
    config, out = small_config(waves), tmp_path / "run"
    notices = Notices(lambda _: None)
    with TrainingLoop.begin(config, out, source=exported, notices=notices) as loop:
        loop.step()
        loop.save()
    with TrainingLoop.begin(config, out, source=exported, resume=True, notices=notices) as loop:
        assert loop.state.step == 1
    refused = rf"was begun from {exported}, not from {run}"
    with (
        pytest.raises(UserError, match=refused),
        TrainingLoop.begin(config, out, source=run, resume=True, notices=notices),
    ):
        pass


def plain_model(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network that the documented lines build."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?safe_open.*?)```", text, re.DOTALL)
    monkeypatch.chdir(exported.parent)
    found: dict[str, Any] = {}
    exec(lines.replace("model.safetensors", exported.name), found)
    return found["model"].eval()


def test_plain_pytorch_loads_it_by_the_documented_lines(
    run: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, expected = plain_model(exported, monkeypatch), Run.open(run).load_model()
    states = [torch.randn(2, 2, 8, 16) for _ in range(2)]
    static = torch.randn(1, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(*states, static), expected(*states, static))


def test_torch_exports_the_plain_network(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_model(exported, monkeypatch)
    given = (*(torch.randn(1, 2, 8, 16) for _ in range(2)), torch.randn(1, 8, 16))
    with torch.no_grad():
        program = torch.export.export(model, given)
        torch.testing.assert_close(program.module()(*given), model(*given))


def test_the_card_says_what_it_is_and_what_to_fill_in(exported: Path) -> None:
    card = exported.with_suffix(".md").read_text(encoding="utf-8")
    with safe_open(exported, framework="pt") as file:
        weights = [name for name in file.keys() if name.startswith("model.")]  # noqa: SIM118
        number = sum(file.get_tensor(name).numel() for name in weights)
    assert f"A WeatherMixer of {number:,} parameters" in card
    assert "8 × 16, latitude × longitude" in card
    assert "temperature, 2m_temperature" in card
    assert "license: FILL IN" in card


def test_folders_of_the_machine_stay_at_home(exported: Path, waves: Path) -> None:
    text = exported.read_bytes() + exported.with_suffix(".md").read_bytes()
    assert waves.name.encode() in text
    assert str(waves.parent).encode() not in text


def _texts(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def cut_short(path: Path, to: Path) -> None:
    to.write_bytes(path.read_bytes()[:-1000])


def header_cut(path: Path, to: Path) -> None:
    to.write_bytes(path.read_bytes()[:100])


def weight_changed(path: Path, to: Path) -> None:
    tensors = load_file(path)
    tensors["model.encoder.bias"][3] += 1e-3
    save_file(tensors, to, metadata=_texts(path))


def configuration_changed(path: Path, to: Path) -> None:
    texts = _texts(path)
    texts["config"] = texts["config"].replace("step_hours: 6.0", "step_hours: 12.0")
    save_file(load_file(path), to, metadata=texts)


def text_lacking(path: Path, to: Path) -> None:
    texts = _texts(path)
    del texts["channels"]
    save_file(load_file(path), to, metadata=texts)


def of_another_program(path: Path, to: Path) -> None:
    save_file({"weight": torch.zeros(3)}, to)


def of_a_later_format(path: Path, to: Path) -> None:
    about = json.loads(_texts(path)["weathermixer"]) | {"format": 2, "program": "9.9"}
    save_file(load_file(path), to, metadata=_texts(path) | {"weathermixer": json.dumps(about)})


def text_file(path: Path, to: Path) -> None:
    to.write_text("model: {channels: 3}\n" * 10)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_short, "is not a whole file in safetensors .* copy it again, or export the run again"),
        (header_cut, "is not a whole file in safetensors"),
        (weight_changed, "is not as it was written: copy it again, or export the run again"),
        (configuration_changed, "is not as it was written"),
        (text_lacking, "is not as it was written"),
        (of_another_program, "is a file in safetensors, but no export: give the one that"),
        (of_a_later_format, r"of format 2, which WeatherMixer 9\.9 wrote .* install WeatherMixer"),
        (text_file, "is not a whole file in safetensors .* give the one that"),
    ],
)
def test_what_is_no_whole_export_is_refused(
    exported: Path, waves: Path, tmp_path: Path, damage: Any, sentence: str
) -> None:
    changed = tmp_path / "changed.safetensors"
    damage(exported, changed)
    with pytest.raises(UserError, match=sentence):
        forecast(changed, waves, INIT, STEPS, tmp_path / "f.zarr")
    assert not (tmp_path / "f.zarr").exists()


def test_other_weights_than_it_has_are_refused(exported: Path, waves: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.zarr"
    with pytest.raises(UserError, match=r"weights of one checkpoint alone, step-00000007"):
        forecast(exported, waves, INIT, STEPS, out, checkpoint="best")
    with pytest.raises(UserError, match="has the last weights alone: leave out --weights, or exp"):
        forecast(exported, waves, INIT, STEPS, out, weights="average")


def test_an_export_of_the_average_says_so(waves: Path, tmp_path: Path) -> None:
    training = {"steps": 3, "warmup_steps": 1, "average_decay": 0.5}
    train(wave_config(waves, training=training), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "m.safetensors")
    for weights, out in ((None, tmp_path / "a.zarr"), ("average", tmp_path / "b.zarr")):
        forecast(tmp_path / "m.safetensors", waves, INIT, STEPS, out, weights=weights)  # type: ignore[arg-type]
        assert xr.open_zarr(out).attrs["weights"] == "average"
    forecast(tmp_path / "run", waves, INIT, STEPS, tmp_path / "c.zarr", weights="average")
    xr.testing.assert_equal(xr.open_zarr(tmp_path / "a.zarr"), xr.open_zarr(tmp_path / "c.zarr"))
    with pytest.raises(UserError, match="has the average weights alone: leave out --weights"):
        forecast(
            tmp_path / "m.safetensors", waves, INIT, STEPS, tmp_path / "d.zarr", weights="last"
        )
    begun = train(
        wave_config(waves, training=training), tmp_path / "next", source=tmp_path / "m.safetensors"
    )
    assert np.isfinite(begun.loss).all()


def test_nothing_is_written_over_and_no_other_kind_of_file(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    out.with_suffix(".md").write_text("mine")
    with pytest.raises(UserError, match=r"m\.md exists already"):
        export_run(run, out)
    assert not out.exists()
    with pytest.raises(UserError, match=r"name it m\.pt\.safetensors"):
        export_run(run, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"has no best checkpoint"):
        export_run(run, tmp_path / "n.safetensors", which="best")
    with pytest.raises(UserError, match="cannot be written"):
        export_run(run, run / "config.yaml" / "n.safetensors")


def test_weights_keep_their_type(waves: Path, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", waves, scale=0.05, training={"dtype": "float64"})
    (path / "origin.json").unlink()
    export_run(path, tmp_path / "wide.safetensors")
    expected = dict(Run.open(path).load_model().named_parameters())
    found = load_file(tmp_path / "wide.safetensors")
    for name, parameter in expected.items():
        assert found[f"model.{name}"].dtype == torch.float64
        assert torch.equal(found[f"model.{name}"], parameter), name
    assert np.array_equal(found["normalisation.mean"], Run.open(path).normalisation.mean)
