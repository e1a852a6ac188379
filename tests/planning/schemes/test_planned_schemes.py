"""``plan --scheme`` plans every scheme alike, and says which there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from weathermixer.cli import main
from weathermixer.planning.plan import SCHEMES

CONFIG = """
data:
  store: absent.zarr
model:
  prediction: state
  patch: [1, 60]
  channels: 960
  token_hidden: 0.125
training:
  instance_batch: 1
"""
MESHES = {
    # of four ranks, as data, domain, tensor
    "published": {(4, 1, 1), (2, 1, 2), (1, 2, 2)},
    "megatron": {(4, 1, 1), (2, 1, 2), (1, 1, 4)},
    "fsdp": {(4, 1, 1)},
    "ddp": {(4, 1, 1)},
}


@pytest.mark.parametrize("scheme", list(MESHES))
def test_a_scheme_is_planned_on_the_meshes_that_it_has(
    scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    options = ["--gpus", "4", "--machine", "a100-40gb-fitted", "--grid", "720x1440"]
    main(["plan", str(path), *options, "--scheme", scheme, "--json"])
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["scheme"] == scheme
    meshes = [candidate["layout"] for candidate in plan["candidates"]]
    assert {(each["data"], each["domain"], each["tensor"]) for each in meshes} == MESHES[scheme]
    for candidate in plan["candidates"]:
        parts = candidate["seconds"].values()
        assert sum(parts) == pytest.approx(candidate["seconds_per_step"])
        assert 0.0 < candidate["peak_fraction"] < 1.0


def test_an_unknown_scheme_is_refused_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    options = ["--gpus", "4", "--machine", "h100", "--grid", "720x1440", "--scheme", "pipeline"]
    with pytest.raises(SystemExit, match="2"):
        main(["plan", str(path), *options])
    message = capsys.readouterr().err
    assert all(name in message for name in SCHEMES)
