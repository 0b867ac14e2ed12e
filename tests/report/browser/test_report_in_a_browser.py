"""The report in a real headless Chromium, opened from disk."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser.accessibility import LOW_CONTRAST, NAMELESS
from tests.report.browser.conftest import Browser
from tests.report.conftest import make_study
from vram_search.report.page.html import render
from vram_search.report.page.report_data import load_report_data
from vram_search.store import Store, StudyRecord, open_store, sqlite_url

Make = Callable[..., StudyRecord]
Open = Callable[[str], Any]
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">"
MOST_SECONDS = 2.0
A4_WIDTH = 702
"""Pixels of 210 mm less margins of 12 mm, at 96 to the inch."""
WIDTHS = (400, 1280)
VISIBLE_ROWS = "[...document.querySelectorAll('.trials tbody tr')].filter(r => !r.hidden)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study of 60 trials, with two studies of other models in the database."""
    folder = tmp_path_factory.mktemp("report")
    with (
        pytest.MonkeyPatch.context() as patched,
        closing(open_store(sqlite_url(folder / "vram-search.db"), create=True)) as store,
    ):
        patched.setenv("VRAM_SEARCH_HOME", str(folder))
        for name, parameters in (("small", 135_000_000), ("big", 7_600_000_000)):
            make_study(store, name, model={"name": name, "parameters": parameters})
        data = load_report_data(store, make_study(store, trials=60))
        (folder / "report.html").write_text(render(data, datetime.now(UTC)), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    browser.open(report.as_uri())
    browser.eval("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    return browser


def show(page: Any, width: int, scheme: str = "light") -> None:
    """Gives the page a window of this width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.send("Emulation.setDeviceMetricsOverride", **size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.send("Emulation.setEmulatedMedia", features=features)


def test_page_loads_nothing_and_complains_of_nothing(page: Any) -> None:
    assert page.errors() == []
    assert [url.split(":")[0] for url in page.requests()] in (["file"], ["file", "data"])


def test_every_chart_is_drawn_with_marks(page: Any) -> None:
    assert page.eval("document.querySelectorAll('figure > svg.chart').length") >= 12
    empty = "[...document.querySelectorAll('figure')].filter(f => !f.querySelector('[data-trial],"
    assert page.eval(f"{empty}[data-tip]')).map(f => f.id)") == []
    sizes = "[...document.querySelectorAll('figure > svg')].map(s => s.getBoundingClientRect())"
    assert page.eval(f"Math.min(...{sizes}.map(r => Math.min(r.width, r.height)))") > 50


def test_labels_stay_within_their_charts(page: Any) -> None:
    outside = """[...document.querySelectorAll('figure > svg')].flatMap(svg => {
        const frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter(t => {
            const b = t.getBoundingClientRect();
            return b.left < frame.left - 1 || b.right > frame.right + 1
                || b.top < frame.top - 1 || b.bottom > frame.bottom + 1;
        }).map(t => svg.parentElement.id + ': ' + t.textContent);
    })"""
    assert page.eval(outside) == []


def test_ticks_and_names_of_axes_do_not_overlap(page: Any) -> None:
    overlapping = """[...document.querySelectorAll('figure > svg')].flatMap(svg => {
        const boxes = [...svg.querySelectorAll('.tick, .name')]
            .map(t => [t.textContent, t.getBoundingClientRect()]);
        return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
            .filter(([, q]) => p.left < q.right && q.left < p.right
                && p.top + 3 < q.bottom && q.top + 3 < p.bottom)
            .map(([b]) => svg.parentElement.id + ': ' + a + ' ' + b));
    })"""
    for width in WIDTHS:
        show(page, width)
        assert page.eval(overlapping) == [], width


def test_page_fits_its_window_and_can_be_read(page: Any) -> None:
    for width, scheme in product(WIDTHS, ("light", "dark")):
        show(page, width, scheme)
        assert page.eval("document.documentElement.scrollWidth") <= width
        assert page.eval(LOW_CONTRAST) == [], (width, scheme)
        assert page.eval(NAMELESS) == [], (width, scheme)


def test_print_is_light_and_shows_every_row(page: Any) -> None:
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    page.send("Emulation.setEmulatedMedia", media="print", features=[feature])
    assert page.eval("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    size = {"width": A4_WIDTH, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    page.send("Emulation.setDeviceMetricsOverride", **size)
    assert page.eval("document.documentElement.scrollWidth") <= A4_WIDTH
    scroll = "document.querySelector('.trials').parentElement"
    assert page.eval(f"getComputedStyle({scroll}).maxHeight") == "none"
    assert page.eval("getComputedStyle(document.querySelector('.controls')).display") == "none"
    # With boxes of their own in it, Chromium would print the header on the first sheet alone.
    assert page.eval(f"getComputedStyle({scroll}.querySelector('th button')).display") == "contents"


def test_heading_sorts_by_keyboard_with_unknown_values_last(page: Any) -> None:
    page.eval("document.querySelectorAll('.trials th button')[2].focus()")
    losses = f"{VISIBLE_ROWS}.map(r => r.cells[2].dataset.v)"
    rising = page.eval(losses)
    known = [float(loss) for loss in rising if loss]
    assert known == sorted(known) and "" in rising
    assert rising[len(known) :] == [""] * (len(rising) - len(known))
    page.press("Enter")
    assert [float(loss) for loss in page.eval(losses) if loss] == known[::-1]
    assert page.eval(losses)[-1] == ""
    heading = "document.querySelectorAll('.trials th')[2]"
    assert page.eval(f"{heading}.getAttribute('aria-sort')") == "descending"


def test_filter_is_reached_and_used_by_keyboard(page: Any) -> None:
    page.press("/", *"lion_8bit complete")
    texts = page.eval(f"{VISIBLE_ROWS}.map(r => r.textContent)")
    assert 0 < len(texts) < 60
    assert all("lion_8bit" in text and "complete" in text for text in texts)
    said = page.eval("document.getElementById('said').textContent")
    assert said == f"{len(texts)} of 60 trials"


def test_filter_matches_whole_words_of_cells_and_conditions_on_columns(page: Any) -> None:
    kept = f"{VISIBLE_ROWS}.map(r => r.textContent)"
    targets = page.eval(
        "JSON.parse(document.getElementById('data').textContent).trials"
        ".map(t => t.hyperparameters.lora_target)"
    )
    ranks = page.eval(
        "JSON.parse(document.getElementById('data').textContent).trials"
        ".map(t => t.hyperparameters.lora_rank)"
    )
    page.press("/", *"qkvo")
    assert len(page.eval(kept)) == targets.count("qkvo")
    page.press(*" rank:>8")
    pairs = list(zip(targets, ranks, strict=True))
    assert len(page.eval(kept)) == sum(t == "qkvo" and rank > 8 for t, rank in pairs)


def test_arrow_keys_walk_a_charts_marks_and_enter_opens_the_trial(page: Any) -> None:
    page.eval("document.querySelector('#chart-vram svg').focus()")
    page.press("ArrowRight", "ArrowRight")
    tip = page.eval("document.getElementById('tip').textContent")
    assert tip.startswith("trial ") and "learning_rate" in tip
    number = tip.split(":")[0].split()[1]
    page.press("Enter")
    assert page.eval("document.getElementById('tip').hidden") is True
    assert page.eval("document.getElementById('trial').open") is True
    assert page.eval("document.getElementById('trial-name').textContent") == f"trial {number}"
    page.press("Escape")
    assert page.eval("document.getElementById('trial').open") is False
    assert page.eval("document.activeElement.parentElement.id") == "chart-vram"


def test_panel_of_a_trial_compares_it_with_the_best_and_shows_its_row(page: Any) -> None:
    best = page.eval("JSON.parse(document.getElementById('data').textContent).best")
    row = f"{VISIBLE_ROWS}[3]"
    number = page.eval(f"{row}.id").removeprefix("trial-")
    page.eval(f"{row}.click()")
    act = "document.querySelector('#trial [data-do={}]').click()"
    page.eval(act.format("compare"))
    name = page.eval("document.getElementById('trial-name').textContent")
    assert name == f"trial {number} and trial {best}"
    lines = page.eval("[...document.querySelectorAll('#trial tr')].map(r => r.innerText)")
    assert any(line.startswith("eval_loss") for line in lines)
    assert page.eval("document.querySelectorAll('#trial .differs').length") > 0
    page.eval(act.format("row"))
    assert page.eval("document.activeElement.id") == f"trial-{number}"
    assert page.eval("document.getElementById('trial').open") is False
    assert page.errors() == []


def test_trials_are_cards_without_a_second_scroller_on_a_phone(page: Any) -> None:
    show(page, 390)
    row = "document.querySelector('.trials tr.best')"
    assert page.eval(f"getComputedStyle({row}).display") == "grid"
    name = f"getComputedStyle({row}.cells[2], '::before').content"
    assert "eval_loss" in page.eval(name)
    scroll = "document.querySelector('.trials').parentElement"
    assert page.eval(f"getComputedStyle({scroll}).overflowY") == "visible"
    assert page.eval("document.documentElement.scrollWidth") <= 390


def test_further_columns_are_shown_on_demand(page: Any) -> None:
    shown = "document.querySelectorAll('.trials th')[3].offsetWidth > 0"
    assert page.eval("document.querySelectorAll('.trials th')[3].textContent") == "bits/byte"
    assert page.eval(shown) is False
    page.eval("document.getElementById('wide').click()")
    assert page.eval(shown) is True


def test_tab_reaches_every_chart_once_then_filter_and_headings(page: Any) -> None:
    count = page.eval("document.querySelectorAll('figure > svg').length")
    page.eval("document.querySelector('nav a:last-child').focus()")
    page.eval(
        "window.reached = [],"
        " document.addEventListener('focusin', event => reached.push(event.target.tagName))"
    )
    page.press(*["Tab"] * (count + 30))  # with buttons and the headings of tables
    reached = page.eval("reached")
    assert reached.count("svg") == count
    assert {"INPUT", "SELECT", "BUTTON"} <= set(reached)


def test_hostile_study_name_does_not_act(database: Store, studies: Make, open_report: Open) -> None:
    studies(database, HOSTILE, trials=12, model={"name": HOSTILE, "parameters": 9})
    page = open_report(HOSTILE)
    assert page.errors() == []
    assert page.eval("document.title").endswith("vram-search report")
    assert page.eval("document.querySelector('h1').textContent") == HOSTILE
    assert page.eval("document.images.length") == 0


def test_rows_after_the_first_hundred_are_laid_out_on_demand(
    database: Store, studies: Make, open_report: Open
) -> None:
    studies(database, trials=130)
    page = open_report("td-010")
    laid_out = "[...document.querySelectorAll('.trials tbody tr')].filter(r => r.offsetHeight)"
    assert page.eval(f"{laid_out}.length") == 100
    page.eval("document.querySelector('#outcome').value = 'complete'")
    page.eval("document.querySelector('#outcome').dispatchEvent(new Event('change'))")
    complete = page.eval(f"{VISIBLE_ROWS}.length")
    assert page.eval(f"{laid_out}.length") == complete < 100
    page.eval("document.querySelector('#outcome').value = ''")
    page.eval("document.querySelector('#outcome').dispatchEvent(new Event('change'))")
    page.eval("document.getElementById('every').click()")
    assert page.eval(f"{laid_out}.length") == 130
    assert not page.eval("document.getElementById('every').checkVisibility()")


@pytest.mark.slow
def test_thousand_trials_open_in_two_seconds(
    database: Store, studies: Make, open_report: Open
) -> None:
    studies(database, trials=1000)
    page = open_report("td-010")
    assert page.eval(f"{VISIBLE_ROWS}.length") == 1000
    assert page.errors() == []
    painted = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    loaded = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    assert page.eval(f"Math.max({painted}, {loaded})") < 1000 * MOST_SECONDS


def test_chromium_alone_opens_the_report_without_a_word(
    chromium: str, report: Path, tmp_path: Path
) -> None:
    """As a person would: no debugging pipe, the page as it is written out again."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [chromium, *flags, report.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.count('<tr id="trial-') == 60
    assert "CONSOLE" not in done.stderr
