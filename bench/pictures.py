"""Writes docs/pictures: the report, the service's pages and the live view, as a person sees them.

    python -m bench.pictures [--demo DATABASE] [--into FOLDER]

The report is that of a real search of `vram-search demo` (the database of the data folder by
default). The pages of the service and the live view show an example whose figures are invented.
Pages are taken in light, dark and with 390 pixels (phone); an error in a console ends it. Needs
Playwright, Pillow and a Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from bench.browser import chromium, collect_errors
from bench.example_night import make_example, save_live_view
from tests.web.conftest import serving
from vram_search.report.page.html import render
from vram_search.report.page.report_data import load_report_data
from vram_search.resources import data_folder
from vram_search.store import open_store, sqlite_url

LOOKS = {"light": (1100, 900, "light"), "dark": (1100, 900, "dark"), "phone": (390, 844, "light")}
"""Width and height in pixels, and the theme."""
MOST_HEIGHT = 1500
"""Pixels; longer pages are cut."""
MOST_BYTES = 150_000
SECOND = "49"
"""A complete trial of the example, which the best is compared with."""
COLOURS = 128


def take(page: Page, file: Path) -> None:
    """Saves what the page shows from its top, with few colours."""
    height = min(MOST_HEIGHT, page.evaluate("document.documentElement.scrollHeight"))
    width = page.evaluate("innerWidth")
    shot = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    assert file.stat().st_size <= MOST_BYTES, (file, file.stat().st_size)


def looks(browser: Browser) -> Iterator[tuple[str, Page]]:
    """Yields an empty page in each look; an error in its console is raised after its use."""
    for look, (width, height, scheme) in LOOKS.items():
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page = context.new_page()
        errors = collect_errors(page)
        yield look, page
        assert not errors, errors
        context.close()


def take_report(browser: Browser, demo: Path, folder: Path, into: Path) -> None:
    """The report of the demo's search."""
    copied = shutil.copy(demo, folder / "demo.db")
    with closing(open_store(sqlite_url(Path(copied)), create=False)) as store:
        study = store.study("demo")
        assert study is not None, f"{demo} holds no study demo"
        html = render(load_report_data(store, study), datetime.now(UTC))
    (folder / "report.html").write_text(html, encoding="utf-8")
    for look, page in looks(browser):
        page.goto((folder / "report.html").as_uri())
        take(page, into / f"report-{look}.png")


def take_service(browser: Browser, folder: Path, into: Path) -> None:
    """The pages of a service with a running study, a queue and a finished study."""
    url = sqlite_url(folder / "home" / "vram-search.db")
    with closing(open_store(url, create=True)) as store:
        make_example(store)
    with serving(folder, "--no-run") as (server, _):
        for look, page in looks(browser):
            page.goto(f"{server.address}/?token={server.token}")
            take(page, into / f"service-now-{look}.png")
            page.goto(f"{server.address}/studies/support-7b")
            take(page, into / f"service-study-{look}.png")
            page.fill("[name=second]", SECOND)
            page.click("text=Compare >> nth=-1")
            page.locator("#compared tbody tr").first.wait_for()
            _take_part(page, "#compared", into / f"service-compare-{look}.png")
            page.goto(f"{server.address}/estimate")
            page.click("button:has-text('Will it fit?')")
            page.locator("#answer .verdict").wait_for()
            take(page, into / f"service-fit-{look}.png")
            page.goto(f"{server.address}/new")
            values = {"study": "my-study", "model": "Qwen/Qwen2.5-3B-Instruct"}
            for name, value in {**values, "train": "rows.jsonl", "card": "16gb"}.items():
                page.fill(f"[name={name}]", value)
            page.click("text=Write the study file")
            page.locator("textarea").wait_for()
            take(page, into / f"service-new-{look}.png")


def take_morning(browser: Browser, folder: Path, into: Path) -> None:
    """The first page when the night is over."""
    url = sqlite_url(folder / "home" / "vram-search.db")
    with closing(open_store(url, create=True)) as store:
        make_example(store, is_running=False)
    with serving(folder, "--no-run") as (server, _):
        for look, page in looks(browser):
            page.goto(f"{server.address}/?token={server.token}")
            take(page, into / f"service-morning-{look}.png")


def take_code(into: Path) -> None:
    """The read-only link of `serve --lan` as a phone's camera sees it; the address is invented."""
    import segno

    link = "http://192.168.1.20:8416/?token=an-example-of-a-read-only-token-12345"
    segno.make(link).save(str(into / "service-lan.svg"), scale=4)


def _take_part(page: Page, selector: str, file: Path) -> None:
    shot = page.locator(selector).screenshot()
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    assert file.stat().st_size <= MOST_BYTES, file


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, default=data_folder() / "vram-search.db")
    parser.add_argument("--into", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    save_live_view(options.into / "live-view.svg")
    take_code(options.into)
    with chromium() as browser:
        for take_some in (take_service, take_morning):
            with tempfile.TemporaryDirectory() as folder:
                take_some(browser, Path(folder), options.into)
        with tempfile.TemporaryDirectory() as folder:
            take_report(browser, options.demo, Path(folder), options.into)


if __name__ == "__main__":
    main()
