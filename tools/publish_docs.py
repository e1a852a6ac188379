"""Puts a built site beside those of other versions: ``publish_docs.py BUILT SITE VERSION``.

SITE holds a folder for each version, a page that lists them, ``versions.html``, and an
``index.html`` that leads to the newest release, or to the main branch while there is none.
"""

from __future__ import annotations

import re
import shutil
import sys
from html import escape
from pathlib import Path

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>WeatherMixer: versions of the documentation</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto }}
</style>
</head>
<body>
<h1>WeatherMixer: versions of the documentation</h1>
<ul>
{items}
</ul>
</body>
</html>
"""
REDIRECT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>WeatherMixer</title>
<meta http-equiv="refresh" content="0; url={version}/index.html">
<a href="{version}/index.html">WeatherMixer {version}</a>
</html>
"""


def main(built: Path, site: Path, version: str) -> None:
    """Replaces one version's folder, and writes the two pages that lead to versions."""
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(built, site / version, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))
    names = sorted((page.parent.name for page in site.glob("*/index.html")), key=order)
    labels = [f"{name}, the newest release" if name == newest(names) else name for name in names]
    items = "\n".join(
        f'<li><a href="{escape(name)}/index.html">{escape(label)}</a></li>'
        for name, label in zip(names, labels, strict=True)
    )
    (site / "versions.html").write_text(PAGE.format(items=items), encoding="utf-8")
    start = REDIRECT.format(version=escape(newest(names) or names[0]))
    (site / "index.html").write_text(start, encoding="utf-8")
    # Else GitHub's pages leave out folders whose names begin with an underscore.
    (site / ".nojekyll").touch()


def order(version: str) -> tuple[bool, list[int], str]:
    """Puts branches before releases, and newer releases before older ones."""
    numbers = [-int(number) for number in re.findall(r"\d+", version)]
    return is_release(version), numbers if is_release(version) else [], version


def newest(versions: list[str]) -> str | None:
    """The first release of versions that are in order."""
    return next((version for version in versions if is_release(version)), None)


def is_release(version: str) -> bool:
    """Whether this is a final version, ``1.2.3``, and no branch or candidate."""
    return re.fullmatch(r"\d+(\.\d+)*", version) is not None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
