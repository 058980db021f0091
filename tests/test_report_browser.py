"""The report page in Chromium, from disk, without script and network: at a desk, on a phone, on paper."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fake_report import CHECK, WRONG, full
from vmtests.errors import ExitCode
from vmtests.record import Record
from vmtests.report import page
from vmtests.report.gather import gather

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

DESK, PHONE = (1280, 900), (400, 800)

#: What no text of the page may do: hang over its box or the page, or lie on another text.
OVERFLOWS = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""
COLLISIONS = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
    texts.forEach(([text, box], place) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1)
        found.push(`${text} hangs over its picture`);
      for (const [other, there] of texts.slice(place + 1)) {
        const wide = Math.min(box.right, there.right) - Math.max(box.left, there.left);
        const high = Math.min(box.bottom, there.bottom) - Math.max(box.top, there.top);
        if (wide > 2 && high > 4) found.push(`${text} lies on ${other}`);
      }
    });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a screen."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("playwright is not installed: pip install -e '.[dev]'")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no Chromium in PATH ({', '.join(BROWSERS)}): apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


RECORDS = {
    "counts": {"checks": (CHECK,)},
    "times": {"clock": "wall", "pairs": 20, "kernels": (("base", 273.0), ("patched", 250.0))},
    "wrong": {"pairs": 1, "checks": (CHECK, WRONG), "code": ExitCode.KERNEL_FAILED, "failure": "the memmap is wrong"},
    "series": {"kernels": (("base", 55.0), ("0001-first", 55.0), ("0002-second", 40.0), ("0003-third", 13.0))},
}


@pytest.fixture(scope="module", params=RECORDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page on the disk."""
    folder = tmp_path_factory.mktemp(request.param)
    record: Record = full(folder / "run", **RECORDS[request.param])  # type: ignore[arg-type]
    path = folder / "page.html"
    path.write_text(page.render(gather([record.folder])), encoding="utf-8")
    return path


def opened(browser: Browser, file: Path, size: tuple[int, int], complaints: list[str]) -> Page:
    """Open the file with nothing allowed, and note all that it asks for or complains of."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, java_script_enabled=False, offline=True
    )
    shown = context.new_page()
    shown.on("request", lambda request: complaints.append(request.url) if request.url != file.as_uri() else None)
    shown.on("console", lambda message: complaints.append(message.text))
    shown.goto(file.as_uri())
    return shown


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_it_opens_from_disk_and_fits(browser: Browser, file: Path, size: tuple[int, int], tmp_path: Path) -> None:
    complaints: list[str] = []
    shown = opened(browser, file, size, complaints)
    assert complaints == []
    assert shown.evaluate(OVERFLOWS) <= 0
    assert shown.evaluate(COLLISIONS) == []
    for number in range(4):
        assert shown.locator(".card").nth(number).is_visible()
    picture = tmp_path / "page.png"
    shown.screenshot(path=picture, full_page=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown.context.close()


def test_it_prints(browser: Browser, file: Path, tmp_path: Path) -> None:
    """On A4, with what is folded on the screen unfolded, and nothing beyond the edge of the paper."""
    shown = opened(browser, file, DESK, [])
    shown.emulate_media(media="print")
    shown.set_viewport_size({"width": 703, "height": 1000})  # what A4 leaves between our margins
    assert shown.evaluate(OVERFLOWS) <= 0
    assert not shown.locator("details.samples").is_visible()
    for folded in shown.locator("details:not(.samples):not(.argv)").all():
        assert folded.evaluate("one => one.getBoundingClientRect().height > 1.8 * one.firstElementChild.offsetHeight")
    paper = tmp_path / "page.pdf"
    shown.pdf(path=paper, prefer_css_page_size=True)
    assert paper.read_bytes().startswith(b"%PDF")
    shown.context.close()


def test_greys_tell_the_kernels_apart(browser: Browser, tmp_path: Path) -> None:
    """Without colour at all, marks of different kernels have different shapes."""
    record = full(tmp_path / "run", pairs=1)
    file = tmp_path / "page.html"
    file.write_text(page.render(gather([record.folder])), encoding="utf-8")
    shown = opened(browser, file, DESK, [])
    shapes = shown.evaluate(
        """() => {
          const svg = document.querySelector("figure svg");
          const of = kernel => [...svg.querySelectorAll("use")]
            .filter(one => one.textContent.startsWith(kernel + ",") && !one.textContent.includes("poison"))
            .map(one => svg.querySelector(one.getAttribute("href")).getAttribute("d"));
          return [of("base"), of("patched")].map(list => [...new Set(list)].sort());
        }"""
    )
    assert all(shapes)
    assert not set(shapes[0]) & set(shapes[1])
    shown.context.close()
