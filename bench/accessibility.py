"""Checks the service's pages with axe-core for WCAG 2.2 AA: `python -m bench.accessibility AXE`.

AXE is the file axe.min.js, which the package axe-playwright-python holds. It prints a line for each
page and look, and every violation. Texts on patterns, which axe cannot judge, count as incomplete.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from bench.browser import chromium
from bench.example_night import make_example
from bench.pictures import SECOND, looks
from tests.web.conftest import serving
from vram_search.store import open_store, sqlite_url

STUDY = "/studies/support-7b"
PAGES = ("/", STUDY, f"{STUDY}/trials/{SECOND}", "/estimate", "/new", "/api", "/login")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def check(page: Page, axe: str) -> dict[str, Any]:
    """Returns axe's answer about the page that is open."""
    page.evaluate(axe)
    options = {"runOnly": {"type": "tag", "values": TAGS}}
    found: dict[str, Any] = page.evaluate("options => axe.run(document, options)", options)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("axe", type=Path, help="the file axe.min.js")
    axe = parser.parse_args().axe.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        url = sqlite_url(Path(name) / "home" / "vram-search.db")
        with closing(open_store(url, create=True)) as store:
            make_example(store)
        with serving(Path(name), "--no-run") as (server, _):
            for look, page in looks(browser):
                page.goto(f"{server.address}/?token={server.token}")
                for path in PAGES:
                    page.goto(server.address + path)
                    _print(look, path, check(page, axe))


def _print(look: str, path: str, found: dict[str, Any]) -> None:
    counts = {kind: len(found[kind]) for kind in ("passes", "violations", "incomplete")}
    print(f"{look:<6} {path:<32} {counts}", flush=True)
    for one in found["violations"]:
        print(f"  {one['id']}: {one['help']}: {[node['html'][:100] for node in one['nodes']][:4]}")
    for one in found["incomplete"]:
        print(f"  ({one['id']}, {len(one['nodes'])}: {one['nodes'][0]['html'][:90]})")


if __name__ == "__main__":
    main()
