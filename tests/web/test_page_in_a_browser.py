"""The page in a real headless Chromium, against a real server that runs a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import tiny_study
from tests.report.browser.accessibility import FOCUS_IS_SEEN, LOW_CONTRAST, NAMELESS
from tests.report.browser.conftest import Browser
from tests.report.conftest import make_study
from tests.web.conftest import Server, add, serving
from vram_search.store import open_store, sqlite_url
from vram_search.web import app

MOST_SCRIPT_BYTES = 150_000


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server whose studies never get past the probe of their third trial."""
    with serving(folder, HELD_TRIALS="2") as (one, _):
        yield one


@pytest.fixture
def page(browser: Browser, server: Server) -> Browser:
    """A browser that is logged in by the link."""
    browser.open(f"{server.address}/?token={server.token}")
    return browser


def eventually(page: Browser, script: str, seconds: float = 60) -> Any:
    """The value of a script as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := page.eval(script):
            return found
        time.sleep(0.2)
    raise AssertionError(f"never true: {script}\n{page.eval('document.body.innerText')}")


def click(page: Browser, words: str, where: str = "body") -> None:
    buttons = f"[...document.querySelectorAll('{where} button')]"
    assert page.eval(f"{buttons}.filter(b => b.textContent.trim() === '{words}').length"), words
    page.eval(f"{buttons}.find(b => b.textContent.trim() === '{words}').click()")


def drag(page: Browser, name: str, onto: str) -> None:
    """Drags a study of the queue onto another one, by the events that a mouse causes."""
    page.eval(
        f"""(() => {{
          const item = (name) => [...document.querySelectorAll('.queue li')]
            .find((li) => li.querySelector('strong').textContent === name);
          const dataTransfer = new DataTransfer();
          const send = (at, kind) => item(at).dispatchEvent(
            new DragEvent(kind, {{ bubbles: true, cancelable: true, dataTransfer }}));
          send('{name}', 'dragstart');
          send('{onto}', 'dragover');
          send('{onto}', 'drop');
          send('{name}', 'dragend');
        }})()"""
    )


def has_text(words: str, where: str = "body") -> str:
    return f"document.querySelector('{where}')?.innerText.includes('{words}')"


def test_page_logs_in_by_its_link_and_loads_nothing_from_elsewhere(
    browser: Browser, records: Server
) -> None:
    page, server = browser, records
    page.open(f"{server.address}/?token={server.token}")
    assert page.eval("location.href") == f"{server.address}/"
    assert page.eval("document.cookie") == "", "scripts cannot read the cookie"
    assert [url for url in page.requests() if not url.startswith((server.address, "data:"))] == []
    assert page.errors() == []


def test_token_in_the_form_logs_in(browser: Browser, records: Server) -> None:
    """Browsers send a form's Origin by the page's Referrer-Policy."""
    browser.open(f"{records.address}/studies/td-010")
    assert browser.eval("location.pathname") == "/login"
    for token, words in (("wrong", "The token is wrong"), (records.token, "Studies")):
        browser.eval(f"document.querySelector('[name=token]').value = '{token}'")
        click(browser, "Log in", "form")
        eventually(browser, has_text(words))
    assert browser.eval("location.pathname") == "/"


def test_page_follows_a_search_without_reloading(page: Browser, server: Server) -> None:
    assert page.eval(has_text("Nothing runs now"))
    page.eval("window.mark = 1")
    add(server, budget={"trials": 2})
    eventually(page, has_text("running", "#now"))
    eventually(page, has_text("Nothing runs now"))
    eventually(page, has_text("tiny", "#studies"))
    assert page.eval("window.mark") == 1
    assert page.errors() == []


def test_queue_is_ordered_paused_and_emptied_with_its_buttons(
    browser: Browser, records: Server
) -> None:
    for name in ("a", "b"):
        add(records, study=name)
    browser.open(f"{records.address}/?token={records.token}")
    names = "[...document.querySelectorAll('.queue strong')].map(e => e.textContent).join()"
    assert browser.eval(names) == "a,b"
    click(browser, "Down", "#queue")
    eventually(browser, f"{names} === 'b,a'")
    drag(browser, "b", "a")
    eventually(browser, f"{names} === 'a,b'")
    drag(browser, "b", "a")
    eventually(browser, f"{names} === 'b,a'")
    click(browser, "Pause", "#queue")
    eventually(browser, has_text("paused", "#queue"))
    browser.eval("window.confirm = () => true")
    for left in ("a", ""):
        click(browser, "Remove", "#queue")
        eventually(browser, f"{names} === '{left}'")
    assert browser.errors() == []


def test_click_is_not_lost_while_the_page_updates(browser: Browser, records: Server) -> None:
    entry = add(records, study="clicked")
    browser.open(f"{records.address}/?token={records.token}")
    button = """document.querySelector("#queue button[id^='Pause']")"""
    browser.eval("htmx.on('htmx:afterSwap', () => { window.swapped = true; })")
    browser.mouse("mousePressed", button)
    browser.eval("htmx.trigger('#queue', 'sse:queue_changed')")
    eventually(browser, "window.swapped")
    browser.mouse("mouseReleased", button)
    eventually(browser, has_text("paused", "#queue"))
    browser.eval(f"htmx.ajax('POST', '/api/v1/queue/{entry}/cancel', {{swap: 'none'}})")
    eventually(browser, f"!{has_text('clicked', '#queue')}")
    assert browser.errors() == []


def test_button_answers_from_the_moment_it_is_there(browser: Browser, records: Server) -> None:
    browser.open(f"{records.address}/?token={records.token}")
    browser.eval(
        """htmx.on('htmx:afterSwap', () => {
          const pause = document.querySelector("#queue button[id^='Pause']");
          if (pause && !window.clicked) queueMicrotask(() => pause.click());
          window.clicked = Boolean(pause);
        })"""
    )
    entry = add(records, study="early")
    browser.eval("htmx.trigger('#queue', 'sse:queue_changed')")
    eventually(browser, has_text("paused", "#queue"))
    browser.eval(f"htmx.ajax('POST', '/api/v1/queue/{entry}/cancel', {{swap: 'none'}})")
    eventually(browser, f"!{has_text('early', '#queue')}")


def hide(page: Browser, is_hidden: bool) -> None:
    """What a browser does when another tab is shown."""
    page.eval(
        f"Object.defineProperty(document, 'hidden', {{value: {str(is_hidden).lower()}, "
        "configurable: true}), document.dispatchEvent(new Event('visibilitychange'))"
    )


def test_hidden_tab_closes_its_events_and_catches_up_when_it_is_seen(
    browser: Browser, records: Server
) -> None:
    browser.open(f"{records.address}/?token={records.token}")
    browser.eval(
        """(() => {
          window.opened = [];
          window.EventSource = class extends EventSource {
            constructor(url) { super(url); window.opened.push(this); }
          };
        })()"""
    )
    for _ in range(2):
        hide(browser, True)
        assert browser.eval("window.opened.every((one) => one.readyState === 2)")
        entry = add(records, study="unseen")
        assert not browser.eval(has_text("unseen", "#queue"))
        hide(browser, False)
        eventually(browser, has_text("unseen", "#queue"))
        eventually(browser, "window.opened.at(-1).readyState === 1")
        records.client.post(f"/api/v1/queue/{entry}/cancel")
        eventually(browser, f"!{has_text('unseen', '#queue')}", 30)
    assert browser.eval("window.opened.length") == 2
    assert browser.errors() == []


def test_command_is_copied_where_the_browser_offers_no_clipboard(
    recorded: Callable[[str], Browser],
) -> None:
    page = recorded("td-010")
    page.eval("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.eval("document.querySelector('details').open = true")
    click(page, "Copy", "details")
    eventually(page, "!document.querySelector('#toast').hidden")
    assert "vram-search export" in page.eval("getSelection().toString()")
    assert page.errors() == []


def test_faults_of_a_file_are_shown_and_the_next_one_is_taken(
    recorded: Callable[[str], Browser], records: Server
) -> None:
    page = recorded("td-010")
    page.open(f"{records.address}/new")

    def choose(name: str, size: int) -> None:
        page.eval(
            f"""(() => {{
              const files = new DataTransfer(), upload = document.querySelector('#upload');
              files.items.add(new File(['x'.repeat({size})], '{name}'));
              upload.files = files.files;
              upload.dispatchEvent(new Event('change'));
            }})()"""
        )

    choose("run.sh", 1)
    eventually(page, has_text("is not a name for a file with rows", "#toast"))
    page.eval("document.querySelector('#upload').dataset.most = 10")
    choose("large.jsonl", 11)
    eventually(page, has_text("large.jsonl is too large", "#toast"))
    choose("数据.jsonl", 10)
    eventually(page, "document.querySelector('#train').value.endsWith('rows--.jsonl')")


def test_page_of_a_study_that_is_deleted_says_so(
    recorded: Callable[[str], Browser], records: Server
) -> None:
    with closing(open_store(sqlite_url(records.home / "vram-search.db"), create=False)) as store:
        make_study(store, "short-lived", trials=3)
    page = recorded("short-lived")
    records.client.delete("/api/v1/studies/short-lived", params={"confirm": "short-lived"})
    eventually(page, has_text("no study", "[aria-label=Results]"))
    assert page.errors() == []


def test_refusal_is_shown_with_its_remedy(recorded: Callable[[str], Browser]) -> None:
    page = recorded("td-010")
    page.eval("htmx.ajax('POST', '/api/v1/queue/99/pause', {swap: 'none'})")
    eventually(page, has_text("the queue has no entry 99", "#toast"))
    eventually(page, has_text("vram-search queue list", "#toast"))


def test_will_it_fit_answers_without_reloading(
    recorded: Callable[[str], Browser], records: Server
) -> None:
    page = recorded("td-010")
    page.open(f"{records.address}/estimate")
    click(page, "Will it fit?", "form")
    eventually(page, has_text("It fits NVIDIA GeForce RTX 5060 Ti", "#answer"))
    page.eval(
        "(e => { e.value = '64'; e.dispatchEvent(new Event('change', {bubbles: true})) })"
        "(document.querySelector('[name=batch]'))"
    )
    eventually(page, has_text("It does not fit", "#answer"))
    assert page.errors() == []


def test_study_is_written_planned_queued_and_cancelled_on_the_page(
    page: Browser, server: Server
) -> None:
    mine = tiny_study(server.folder, study="mine", budget={"trials": 3})
    page.open(f"{server.address}/new")
    fields = {"study": "mine", "model": "org/name", "train": "rows.jsonl", "card": "16gb"}
    for name, value in fields.items():
        page.eval(f"document.querySelector('[name={name}]').value = '{value}'")
    click(page, "Write the study file", "form")
    text = eventually(page, "document.querySelector('textarea')?.value")
    assert yaml.safe_load(text)["model"] == {"model_name_or_path": "org/name"}
    study = yaml.safe_dump(mine)
    page.eval(f"document.querySelector('textarea').value = {study!r}")
    click(page, "Check and plan", "#file")
    eventually(page, has_text("20 training rows", "#plan"))
    page.eval("document.querySelector('textarea').value = 'study: mine'")
    click(page, "Check and plan", "#file")
    eventually(page, has_text("model: is required but missing", "#plan"))
    page.eval(f"document.querySelector('textarea').value = {study!r}")
    click(page, "Add to the queue", "#file")
    eventually(page, "location.pathname === '/'")
    eventually(page, has_text("trial 2", "#now"))
    page.eval("window.confirm = () => true")
    click(page, "Cancel", "#now")
    eventually(page, has_text("Nothing runs now"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs nothing, with a study of 60 trials and one of 120."""
    folder = tmp_path_factory.mktemp("records")
    with closing(open_store(sqlite_url(folder / "home" / "vram-search.db"), create=True)) as store:
        make_study(store, trials=60)
        make_study(store, "long", trials=120)
    with serving(folder, "--no-run") as (server, _):
        yield server


@pytest.fixture
def recorded(records: Server, browser: Browser) -> Callable[[str], Browser]:
    """`recorded("td-010")` opens the page of a study."""

    def open_(study: str) -> Browser:
        browser.open(f"{records.address}/?token={records.token}")
        browser.open(f"{records.address}/studies/{study}")
        return browser

    return open_


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "dark")])
def test_pages_fit_their_window_and_can_be_read(
    recorded: Callable[[str], Browser], width: int, scheme: str
) -> None:
    page = recorded("td-010")
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    page.send("Emulation.setDeviceMetricsOverride", **size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.send("Emulation.setEmulatedMedia", features=features)
    base = page.eval("location.origin")
    study = "/studies/td-010"
    for path in ("/", study, f"{study}/trials/3", "/estimate", "/new", "/api", "/login"):
        page.open(base + path)
        assert page.eval("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.eval(LOW_CONTRAST) == [], path
        assert page.eval(NAMELESS) == [], path
        if path == study:
            names = "getComputedStyle(document.querySelector('#table td'), '::before').content"
            assert (page.eval(names) == '"#"') == (width < 520), "a phone's values have names"
        assert page.errors() == [], path


def test_keyboard_reaches_everything_in_order_with_a_visible_focus(
    recorded: Callable[[str], Browser],
) -> None:
    page = recorded("td-010")
    for path in ("/", "/studies/td-010", "/new"):
        page.open(page.eval("location.origin") + path)
        page.press("Tab")
        assert page.eval("document.activeElement.className") == "skip", path
        assert page.eval("document.activeElement.getBoundingClientRect().left >= 0"), path
        reached = []
        for _ in range(60):
            assert page.eval(FOCUS_IS_SEEN), (path, page.eval("document.activeElement.outerHTML"))
            page.press("Tab")
            place = """[...document.querySelectorAll('*')].indexOf(document.activeElement)"""
            if page.eval("document.activeElement === document.body"):
                break
            reached.append(page.eval(place))
        assert len(reached) > 3 and reached == sorted(reached), path
    page.eval("document.querySelector('.skip').focus()")
    page.press("Enter")
    assert page.eval("location.hash") == "#main"


def test_table_of_many_trials_is_paged_and_filtered(
    recorded: Callable[[str], Browser],
) -> None:
    page = recorded("long")
    rows = "document.querySelectorAll('#table tbody tr').length"
    assert page.eval(rows) == 100
    assert page.eval(has_text("120 trials, page 1 of 2", "#table"))
    click(page, "Next page", "#table")
    eventually(page, has_text("page 2 of 2", "#table"))
    page.eval("htmx.on('htmx:afterSwap', () => { window.swapped = true; })")
    page.eval("htmx.trigger('#table > div', 'sse:trial_ended')")
    eventually(page, "window.swapped")
    assert page.eval(has_text("page 2 of 2", "#table")), "the reader stays on the page"
    page.eval(
        "(e => { e.value = 'complete'; e.dispatchEvent(new Event('change', {bubbles: true})) })"
        "(document.querySelector('[name=outcome]'))"
    )
    eventually(page, f"!{has_text('pruned', '#table tbody')}")
    assert page.errors() == []


def test_two_trials_are_compared_on_the_page(recorded: Callable[[str], Browser]) -> None:
    page = recorded("td-010")
    page.eval("document.querySelector('[name=second]').value = '3'")
    click(page, "Compare")
    eventually(page, has_text("trial 3", "#compared"))
    assert page.eval("document.querySelectorAll('#compared tbody tr').length") > 3
    page.eval("document.querySelector('[name=second]').value = 'none'")
    click(page, "Compare")
    eventually(page, has_text("is not a trial", "#compared"))
    assert page.errors() == []


def test_arrow_keys_walk_the_marks_of_a_chart(recorded: Callable[[str], Browser]) -> None:
    page = recorded("td-010")
    page.eval("document.querySelector('#chart-vram svg').focus()")
    page.press("ArrowRight")
    assert page.eval("document.getElementById('tip').hidden") is False
    assert page.eval("document.getElementById('tip').textContent").startswith("trial ")
    page.press("Escape")
    assert page.eval("document.getElementById('tip').hidden") is True


def test_scripts_are_small_and_carry_their_licences() -> None:
    scripts = list(app.STATIC.rglob("*.js"))
    assert sum(file.stat().st_size for file in scripts) < MOST_SCRIPT_BYTES
    for file in (app.STATIC / "vendor").glob("*.js"):
        assert file.with_name(file.name.replace(".min.js", ".LICENSE")).is_file(), file
