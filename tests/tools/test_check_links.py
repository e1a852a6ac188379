"""Which links of a document lead nowhere."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from support.scripts import load_script


@pytest.fixture(scope="module")
def check_links() -> ModuleType:
    return load_script("check_links")


def dead(check_links: ModuleType, folder: Path, text: str) -> list[str]:
    document = folder / "docs" / "page.md"
    document.parent.mkdir(exist_ok=True)
    document.write_text(text, encoding="utf-8")
    return list(check_links.dead_links(document, root=folder))


@pytest.mark.parametrize(
    "link",
    [
        "[a page](other.md)",
        "[a heading](other.md#two-words-in-code)",
        "[a heading of this page](#here)",
        "[a repeated heading](other.md#again-1)",
        "[a file](../setup.py#L3)",
        "[a folder](..)",
        "![a picture](a%20picture.png)",
        "[elsewhere](https://example.org/nothing.md#nowhere)",
        "`[no link](absent.md)`",
        "```\n[no link](absent.md)\n```",
    ],
)
def test_links_that_lead_somewhere_are_left_alone(
    check_links: ModuleType, tmp_path: Path, link: str
) -> None:
    (tmp_path / "docs").mkdir()
    other = "# Two words, in `code`\n\n## Again\n\n## Again\n"
    (tmp_path / "docs" / "other.md").write_text(other, encoding="utf-8")
    (tmp_path / "docs" / "a picture.png").touch()
    (tmp_path / "setup.py").touch()
    assert dead(check_links, tmp_path, f"# Here\n\n{link}\n") == []


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("[gone](gone.md)", "docs/page.md:3: gone.md names no file"),
        ("![gone](gone.png)", "docs/page.md:3: gone.png names no file"),
        ("[gone](#gone)", "docs/page.md:3: #gone names no heading of docs/page.md"),
        ("[out](../../x)", "docs/page.md:3: ../../x leads out of the repository"),
        ("| a |\n|---|\n| [gone](gone.md) |", "docs/page.md:5: gone.md names no file"),
    ],
)
def test_a_link_that_leads_nowhere_is_named_with_its_line(
    check_links: ModuleType, tmp_path: Path, link: str, complaint: str
) -> None:
    assert dead(check_links, tmp_path, f"# Here\n\n{link}\n") == [complaint]
