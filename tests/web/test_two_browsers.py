"""Two browsers on one service, by Playwright: its owner, and a phone with the read-only link."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from bench.browser import chromium as open_chromium
from bench.browser import collect_errors
from tests.web.conftest import Server, add, serving
from vram_search.web.token import Credentials

SECONDS = 90
"""A busy machine needs a multiple of what an idle one does."""
PHONE: ViewportSize = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def server(folder: Path, chromium: str) -> Iterator[Server]:
    """A server whose studies never get past the probe of their second trial."""
    with serving(folder, HELD_TRIALS="1") as (one, _):
        yield one


@pytest.fixture(scope="module")
def pages(server: Server) -> Iterator[tuple[Page, Page]]:
    """The first page, for the owner and for the reader."""
    expect.set_options(timeout=1000 * SECONDS)
    with open_chromium() as browser:
        owner = browser.new_context().new_page()
        reader = browser.new_context(viewport=PHONE, color_scheme="dark").new_page()
        for page, token in (
            (owner, server.token),
            (reader, Credentials(server.token).viewer_token),
        ):
            page.set_default_timeout(1000 * SECONDS)
            page.goto(f"{server.address}/?token={token}")
        yield owner, reader


def test_two_browsers_follow_one_queue_over_a_restart(
    server: Server, pages: tuple[Page, Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, reader = pages
    said = [*map(collect_errors, pages)]
    add(server, study="first", budget={"trials": 2})
    for page in pages:
        expect(page.locator("#now h1")).to_have_text("first")
        expect(page.locator("#now")).to_contain_text("trial 1")
    for name in ("a", "b"):
        add(server, study=name)
    queue = [page.locator(".queue strong") for page in pages]
    for names in queue:
        expect(names).to_have_text(["a", "b"])
    expect(reader.locator("button")).to_have_count(0)
    owner.get_by_role("button", name="Down: a").click()
    for names in queue:
        expect(names).to_have_text(["b", "a"])
    owner.get_by_role("button", name="Pause: first").click()
    for page in pages:
        expect(page.locator("#now .badge")).to_have_text("asked to pause")
    assert said == [[], []]

    server.stop(kill=True)
    monkeypatch.setenv("VRAM_SEARCH_HOME", str(server.home))
    server.start()
    add(server, study="c")
    for names in queue:
        expect(names).to_have_text(["b", "a", "c"])
    owner.once("dialog", lambda dialog: dialog.accept())
    owner.get_by_role("button", name="Remove: b").click()
    for names in queue:
        expect(names).to_have_text(["a", "c"])
    assert [page.url for page in pages] == [f"{server.address}/"] * 2, "nobody has reloaded"


def test_reader_logs_in_and_acts(server: Server, pages: tuple[Page, Page]) -> None:
    _, reader = pages
    for name in ("a", "c"):
        server.client.post(f"/api/v1/studies/{name}/cancel").raise_for_status()
    reader.get_by_role("link", name="Log in").click()
    reader.get_by_label("Token").fill(server.token)
    reader.get_by_role("button", name="Log in").click()
    reader.wait_for_url(f"{server.address}/")  # and its scripts: a click before them is lost
    reader.once("dialog", lambda dialog: dialog.accept())
    reader.get_by_role("button", name="Cancel: first").click()
    expect(reader.locator("#now h1")).to_have_text("Nothing runs now")
