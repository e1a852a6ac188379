"""``scores.json`` read again: what was written, older files, and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weathermixer.errors import UserError
from weathermixer.verification.differences import Differences
from weathermixer.verification.scores import Scores
from weathermixer.verification.spectrum import Spectra
from weathermixer.verification.verification_record import MetricLabel, Verification

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64) | st.just(float("nan"))
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda name: name not in ("model", "persistence", "climatology", "truth")
)


@st.composite
def verifications(draw: Any) -> Verification:
    """Verifications of any names, numbers and sizes."""
    channels = tuple(draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)))
    leads = draw(st.lists(st.integers(1, 500), min_size=1, max_size=3, unique=True))
    lead_hours = tuple(sorted(float(lead) / 2 for lead in leads))
    metrics = ["rmse", *draw(st.lists(st.sampled_from(["acc", "bias", "mae"]), unique=True))]
    beside = draw(st.lists(NAMES, max_size=2, unique=True))
    baselines = ["persistence", *draw(st.sampled_from([[], ["climatology"]]))]
    pairs = tuple(draw(st.integers(1, 9)) for _ in lead_hours)

    def array(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        numbers = draw(st.lists(NUMBERS, min_size=size, max_size=size))
        return np.array(numbers).reshape(shape)

    def scores() -> Scores:
        return Scores(
            channels,
            lead_hours,
            pairs,
            {
                source: {metric: array(len(leads), len(channels)) for metric in metrics}
                for source in ("model", *beside, *baselines)
            },
        )

    names = draw(st.sampled_from([("global", "tropics"), ("15N-75N 0E-45E",), ("global",)]))
    differences = Differences(
        channels,
        lead_hours,
        tuple(draw(st.none() | st.integers(1, 9)) for _ in lead_hours),
        {name: {"rmse": array(len(leads), len(channels), 3)} for name in beside},
    )
    num_waves = draw(st.integers(0, 3))
    # Nine digits are written of a spectrum.
    energy = np.arange(len(leads) * num_waves * len(channels), dtype=float)
    energy = energy.reshape(len(leads), 1, num_waves, len(channels))
    spectra = dict.fromkeys(("model", *beside, "truth"), energy)
    start = np.datetime64("2001-01-01T00:00:00", "s")
    return Verification(
        regions={name: scores() for name in names},
        spectra=Spectra(channels, lead_hours, names[:1], spectra),
        metric_labels={name: MetricLabel(name.upper(), "channel") for name in metrics},
        initial_times=tuple(start + np.arange(draw(st.integers(1, 3)))),
        num_unscored=draw(st.integers(0, 5)),
        forecasts={name: f"/{name}.zarr" for name in ("model", *beside)},
        truth=draw(NAMES),
        warnings=tuple(draw(st.lists(NAMES, max_size=2))),
        differences=differences if beside else None,
    )


@settings(max_examples=60)
@given(verifications())
def test_what_was_written_is_read_again_to_the_last_bit(verification: Verification) -> None:
    text = json.dumps(verification.to_json(), allow_nan=False)
    again = Verification.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    for name in ("initial_times", "num_unscored", "forecasts", "truth", "warnings"):
        assert getattr(again, name) == getattr(verification, name)
    assert again.metric_labels == verification.metric_labels
    assert list(again.regions) == list(verification.regions)
    for region, scores in verification.regions.items():
        got = again.regions[region]
        for name in ("channels", "lead_hours", "pairs"):
            assert getattr(got, name) == getattr(scores, name)
        for source, by_metric in scores.values.items():
            for metric, values in by_metric.items():
                np.testing.assert_array_equal(got.values[source][metric], values)
    assert (again.differences is None) == (verification.differences is None)
    if again.differences is not None and verification.differences is not None:
        assert again.differences.block_lengths == verification.differences.block_lengths
        for name, by_metric in verification.differences.values.items():
            got_rmse = again.differences.values[name]["rmse"]
            np.testing.assert_array_equal(got_rmse, by_metric["rmse"])
    for source, values in verification.spectra.values.items():
        np.testing.assert_array_equal(again.spectra.values[source], values)


def _old() -> dict[str, Any]:
    """A file of version 0.1, which named neither its region nor its metrics."""
    numbers = {"t": {"6": 1.5, "12": None}}
    return {
        "scores": {"rmse": numbers, "acc": numbers},
        "baselines": {"persistence": {"rmse": {"t": {"6": 3.0, "12": 4.0}}}},
        "rmse_relative_to": {"persistence": {"6": 0.5, "12": None}},
        "pairs": {"6": 2, "12": 1},
        "regions": {"global": {"rmse": numbers}, "tropics": {"rmse": {"t": {"6": 2.0}}}},
        "spectrum": {"wavenumber": [], "forecast": {"t": {"6": []}}, "truth": {"t": {"6": []}}},
        "initial_times": ["2001-01-01T00:00:00"],
        "unscored_pairs": 1,
        "forecast": "f.zarr",
        "truth": "t.zarr",
        "warnings": [],
    }


def test_files_of_version_0_1_are_read() -> None:
    verification = Verification.from_json(_old())
    assert verification.region == "global"
    assert list(verification.regions) == ["global", "tropics"]
    assert verification.scores.series("model", "rmse", "t").tolist()[0] == 1.5
    assert np.isnan(verification.scores.series("model", "rmse", "t")[1])
    assert verification.regions["tropics"].series("model", "rmse", "t")[0] == 2.0
    assert verification.metric_labels["acc"] == MetricLabel("ACC", "none")
    assert verification.spectra.num_wavenumbers == 0


def test_what_a_file_need_not_have_may_be_absent() -> None:
    record = _old()
    for name in ("regions", "spectrum", "forecast", "truth", "warnings", "baselines"):
        del record[name]
    verification = Verification.from_json(record)
    assert list(verification.regions) == ["global"]
    assert verification.forecasts == {}
    assert verification.truth is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"scores": {"rmse"', "is damaged"),
        ("[]", "holds no scores"),
        ('{"scores": 3}', "holds no scores"),
        ('{"scores": {"rmse": {"t": 3}}}', "is not what 'weathermixer verify' writes"),
        ('{"scores": {}}', "is not what 'weathermixer verify' writes"),
        ('{"scores": {"rmse": {"t": {}}}, "pairs": {}}', "is not what 'weathermixer verify'"),
        (json.dumps(_old() | {"initial_times": []}), "is not what 'weathermixer verify' writes"),
        (json.dumps(_old() | {"initial_times": ["soon"]}), "is not what 'weathermixer verify'"),
        (json.dumps(_old() | {"pairs": {"6": 1}}), "is not what 'weathermixer verify' writes"),
        (json.dumps(_old() | {"regions": [1]}), "is not what 'weathermixer verify' writes"),
        (
            json.dumps(_old() | {"spectrum": {"wavenumber": [0, 1]}}),
            "is not what 'weathermixer verify' writes",
        ),
    ],
)
def test_damaged_and_foreign_files_are_said_in_a_sentence(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "scores.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        Verification.read(tmp_path)


def test_bytes_that_are_no_text_are_said_too(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is damaged"):
        Verification.read(tmp_path)
