"""Packages of other versions than the tested ones are refused where they would be used."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError

import pytest

from weathermixer.errors import UserError


@pytest.mark.parametrize(
    ("module", "package", "tested", "others"),
    [
        ("weathermixer.earth2studio", "Earth2Studio", "0.19", ["0.18.2", "0.20.0", "1.19.0"]),
        ("weathermixer.anemoi", "anemoi-inference", "0.13", ["0.12.1", "0.14.0", "1.13.0"]),
    ],
)
def test_another_version_is_refused_by_the_module_that_is_made_for_one(
    module: str, package: str, tested: str, others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = importlib.import_module(module)
    remedy = f"pip install 'weathermixer[{module.rpartition('.')[2]}]' has it"
    sentences: dict[str | None, str] = {
        None: f"{package} is not installed, and this needs its version {tested}: {remedy}",
        **{
            other: f"{package} {other} is installed, and this was made for {tested}: {remedy}"
            for other in others
        },
    }
    for found, sentence in sentences.items():

        def version(name: str, found: str | None = found) -> str:
            if found is None:  # as where no distribution of that name is on the path
                raise PackageNotFoundError(name)
            return found

        monkeypatch.setattr("weathermixer.tested_versions.version", version)
        with pytest.raises(UserError) as refused:
            importlib.reload(imported)
        assert str(refused.value) == sentence
