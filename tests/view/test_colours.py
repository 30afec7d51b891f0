"""Terminal colours in a page: what each becomes, and that all of them can be read."""

from __future__ import annotations

import html as html_of_python
import re

import pytest

from ipyelastic.view.colours import BLOCK, DARK, contrast, mixed, readable, to_html
from ipyelastic.view.html import _SOLID

WHITE = (255, 255, 255)
# Text and page of JupyterLab, VS Code and Colab, light and dark; the blocks have 5 per cent of the text's colour.
PAGES = [
    ((0x21, 0x21, 0x21), (0xFF, 0xFF, 0xFF)),
    ((0xFF, 0xFF, 0xFF), (0x11, 0x11, 0x11)),
    ((0x3B, 0x3B, 0x3B), (0xFF, 0xFF, 0xFF)),
    ((0xCC, 0xCC, 0xCC), (0x1F, 0x1F, 0x1F)),
]
CODES = [*range(30, 38), *range(90, 98)]


def rgb(text: str) -> tuple[int, int, int]:
    return (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))


def every_style() -> list[str]:
    parameters = [str(code) for code in CODES] + [f"38;5;{n}" for n in range(256)]
    parameters += [f"38;2;{r};{g};{b}" for r in (0, 90, 255) for g in (0, 90, 255) for b in (0, 90, 255)]
    drawn = [to_html(f"\x1b[{one}mx\x1b[0m") for one in parameters]
    return [found[1] for text in drawn if (found := re.search('style="([^"]*)"', text))]


def test_colour_is_written_twice_and_both_can_be_read() -> None:
    styles = every_style()
    assert len(styles) > 250
    for style in styles:
        found = re.fullmatch(r"color:(#\w{6});color:color-mix\(in srgb,currentColor (\d+)%,(#\w{6})\)", style)
        assert found, style
        assert contrast(rgb(found[1]), DARK) >= 4.5
        for text, page in PAGES:
            block = mixed(text, page, 5)
            assert contrast(mixed(text, rgb(found[3]), int(found[2])), block) >= 4.5, (style, text, page)


def test_text_on_a_background_of_its_own_can_be_read() -> None:
    for code in [*range(40, 48), *range(100, 108)]:
        for fore in ("", *(f";{one}" for one in CODES)):
            found = re.search(r"background-color:(#\w{6});color:(#\w{6})", to_html(f"\x1b[{code}{fore}mx"))
            assert found
            assert contrast(rgb(found[1]), rgb(found[2])) >= 4.5


def test_states_can_be_read() -> None:
    assert all(contrast(rgb(colour), WHITE) >= 4.5 for colour in _SOLID.values())
    held = re.match("background-color:(#......);color:(#......);", BLOCK)
    assert held
    assert contrast(rgb(held[1]), rgb(held[2])) > 10


@pytest.mark.parametrize(
    ("line", "drawn"),
    [
        ("plain <b>", "plain &lt;b&gt;"),
        ("\x1b[1mx\x1b[0m y", '<span style="font-weight:bold">x</span> y'),
        ("\x1b[3;4;9mx\x1b[0m", '<span style="font-style:italic;text-decoration:underline line-through">x</span>'),
        ("\x1b[2mx\x1b[0m", '<span style="opacity:0.75">x</span>'),
        ("\x1b[7mx\x1b[0m", '<span style="background-color:#d4d4d4;color:#1e1e1e">x</span>'),
        ("\x1b[48:2::0:0:0;38;5;15mx\x1b[0m", '<span style="background-color:#000000;color:#ffffff">x</span>'),
        ("\x1b[48;2;255;255;255mx\x1b[0m", '<span style="background-color:#ffffff;color:#000000">x</span>'),
        ("\x1b[8mx\x1b[0m", "x"),
        ("\x1b[38;5mx\x1b[999;abcmy", "x␛[999;abcmy"),
    ],
)
def test_attributes_become_declarations(line: str, drawn: str) -> None:
    assert to_html(line) == drawn


def test_long_line_is_cut_and_one_with_too_many_colours_loses_them() -> None:
    assert to_html("\x1b[1m" + "x" * 30 + "\x1b[0m", 10) == (
        '<span style="font-weight:bold">xxxxxxxxxx</span>... (20 more characters)'
    )
    gaudy = "".join(f"\x1b[38;5;{n % 200 + 20}m<" for n in range(1000))
    assert to_html(gaudy) == html_of_python.escape("<" * 1000)


def test_share_of_the_pages_colour_is_as_small_as_it_may_be() -> None:
    assert readable((0xCC, 0x24, 0x1D)) <= 50
    assert readable((0xFF, 0xFF, 0xFF)) > readable((0x88, 0x88, 0x88))
