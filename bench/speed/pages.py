"""Seconds until a page with many trials can be used, in Chromium: report and service.

    python -m bench.speed.pages [--trials 1000] [--repeats 5]

Wall seconds from the request: DOMContentLoaded, and the first interaction, which is a click on a
heading of the table (report) or the change of its order (page), until its result is painted. Main-
thread seconds are CPU time, which a busy machine lengthens less. Needs Playwright, and Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Browser, Page

from bench.browser import chromium, collect_errors
from tests.report.conftest import make_study
from tests.web.conftest import serving
from vram_search.report.page.html import render
from vram_search.report.page.report_data import load_report_data
from vram_search.store import open_store, sqlite_url

PAINTED = "() => new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))"
Row = tuple[float, float, float]
"""Seconds: DOMContentLoaded, first interaction, CPU of the main thread."""


def measure(browser: Browser, url: str, interact: Callable[[Page], None], login: str = "") -> Row:
    """Opens a page in a new window and interacts with it once."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    if login:
        page.goto(login)
    errors = collect_errors(page)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(url, wait_until="domcontentloaded")
    interact(page)
    page.evaluate(PAINTED)
    loaded, now = page.evaluate(
        "() => [performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd,"
        " performance.now()]"
    )
    metrics = session.send("Performance.getMetrics")["metrics"]
    cpu = next(one["value"] for one in metrics if one["name"] == "TaskDuration")
    context.close()
    assert not errors, errors
    return loaded / 1000, now / 1000, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        url = sqlite_url(folder / "home" / "vram-search.db")
        with closing(open_store(url, create=True)) as store:
            data = load_report_data(store, make_study(store, trials=options.trials))
            (folder / "report.html").write_text(render(data, datetime.now(UTC)), encoding="utf-8")
        print(f"{options.trials} trials       DOMContentLoaded  first interaction  main-thread CPU")
        report = (folder / "report.html").as_uri()
        _print(
            "report",
            [
                measure(browser, report, lambda page: page.click(".trials th:nth-child(3) button"))
                for _ in range(options.repeats)
            ],
        )
        with serving(folder, "--no-run") as (server, _):
            study = f"{server.address}/studies/td-010"
            login = f"{server.address}/?token={server.token}"
            rows = [measure(browser, study, _change_order, login) for _ in range(options.repeats)]
        _print("page", rows)


def _change_order(page: Page) -> None:
    with page.expect_response("**/table*"):
        page.select_option("[name=order]", "eval_loss")


def _print(name: str, rows: list[Row]) -> None:
    middle = [statistics.median(values) for values in zip(*rows, strict=True)]
    print(f"{name:<18} {middle[0]:>16.2f} s {middle[1]:>16.2f} s {middle[2]:>14.2f} s")


if __name__ == "__main__":
    main()
