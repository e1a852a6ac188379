"""How the site of one version stands beside those of others."""

from __future__ import annotations

import re
from pathlib import Path

from support.scripts import load_script


def publish(folder: Path, version: str, text: str = "") -> Path:
    built, site = folder / "built", folder / "site"
    built.mkdir(exist_ok=True)
    (built / "index.html").write_text(text or version, encoding="utf-8")
    load_script("publish_docs").main(built, site, version)
    return site


def versions_of(site: Path) -> list[str]:
    text = (site / "versions.html").read_text(encoding="utf-8")
    return re.findall(r'href="(.*?)/index.html"', text)


def test_versions_are_listed_with_branches_first_and_newer_releases_before_older_ones(
    tmp_path: Path,
) -> None:
    for version in ("0.9.1", "main", "0.10.0", "0.1.0"):
        site = publish(tmp_path, version)
    assert versions_of(site) == ["main", "0.10.0", "0.9.1", "0.1.0"]


def test_the_site_begins_with_the_newest_release_whatever_was_published_last(
    tmp_path: Path,
) -> None:
    start = publish(tmp_path, "main") / "index.html"
    assert "url=main/" in start.read_text(encoding="utf-8")
    for version in ("0.2.0", "0.1.1", "0.3.0rc1"):
        publish(tmp_path, version)
    assert "url=0.2.0/" in start.read_text(encoding="utf-8")


def test_a_version_published_again_replaces_itself_and_leaves_others(tmp_path: Path) -> None:
    publish(tmp_path, "0.1.0")
    publish(tmp_path, "main", "old")
    site = publish(tmp_path, "main", "new")
    assert (site / "main" / "index.html").read_text(encoding="utf-8") == "new"
    assert (site / "0.1.0" / "index.html").read_text(encoding="utf-8") == "0.1.0"
