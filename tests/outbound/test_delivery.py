"""Events reach each receiver once, whatever restarts, and a failing receiver hurts nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, tzinfo
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy import text, update

from tests.factories import FakeListener
from tests.report.conftest import make_study
from vram_search.cli.notify import command as notify_command
from vram_search.errors import FaultyFileError, InputError
from vram_search.outbound import delivery
from vram_search.outbound.apprise_receiver import AppriseReceiver
from vram_search.outbound.delivery import Delivery, delivering
from vram_search.outbound.receiver import SendError
from vram_search.outbound.settings import load_settings
from vram_search.spec import load_study
from vram_search.store import Store, StudyRecord, open_store
from vram_search.store import outbox as outbox_module
from vram_search.store.database import reading, writing
from vram_search.store.events import EventRecord
from vram_search.store.outbox import MOST_ATTEMPTS, start_receiver
from vram_search.store.queue import StudyQueue
from vram_search.store.tables import outbox
from vram_search.worker import run
from vram_search.worker.open_study import open_study
from vram_search.worker.prepare import prepare
from vram_search.worker.stop_rule import ENDLESS

SECRET = "a-very-secret-topic"


class Recorder:
    """A receiver that remembers what it got; it fails as long as `failures` are left."""

    name = "recorder"
    kinds: tuple[str, ...] = ("queue_changed",)

    def __init__(self, failures: int = 0) -> None:
        self.got: list[int] = []
        self.failures = failures

    def wants(self, store: Store, event: EventRecord) -> bool:
        return bool(event.data["state"] == "finished")

    def send(self, store: Store, event: EventRecord) -> None:
        if self.failures:
            self.failures -= 1
            raise SendError("it is down")
        self.got.append(event.id)


def end_a_study(store: Store, state: str = "finished", study: str = "td-010") -> None:
    queue = StudyQueue(store.engine)
    entry = queue.add(study, "study: x", is_detached=True)
    queue.end(entry.id, state, "the time is used up")  # type: ignore[arg-type]


def make_due(store: Store) -> None:
    """Lets the wait before the next attempt be over."""
    with writing(store.engine) as connection:
        due = update(outbox).where(outbox.c.retry_at.is_not(None))
        connection.execute(due.values(retry_at=outbox.c.claimed_at))


def test_event_is_sent_once_also_by_two_processes_and_after_a_restart(
    store: Store, url: str
) -> None:
    end_a_study(store)  # before the receiver was known
    one, notes = Recorder(), list[str]()
    start_receiver(store.engine, one.name)
    assert Delivery(store, [one], notes.append).deliver_due() == 0
    end_a_study(store)
    with closing(open_store(url, create=False)) as other:
        first, second = Delivery(store, [one], notes.append), Delivery(other, [one], notes.append)
        assert first.deliver_due() + second.deliver_due() == 1
    with closing(open_store(url, create=False)) as restarted:
        start_receiver(restarted.engine, one.name)
        assert Delivery(restarted, [one], notes.append).deliver_due() == 0
    assert len(one.got) == 1


def test_event_that_a_dead_process_claimed_is_not_sent_again(store: Store) -> None:
    class Dies(Recorder):
        def send(self, store: Store, event: EventRecord) -> None:
            raise SystemExit  # the process ends between the claim and the answer

    dies = Dies()
    start_receiver(store.engine, dies.name)
    end_a_study(store)
    with pytest.raises(SystemExit):
        Delivery(store, [dies], print).deliver_due()
    assert Delivery(store, [Recorder()], print).deliver_due() == 0


def test_failed_event_is_sent_again_later_and_the_failure_is_reported_once(store: Store) -> None:
    one, notes = Recorder(failures=2), list[str]()
    start_receiver(store.engine, one.name)
    end_a_study(store)
    sender = Delivery(store, [one], notes.append)
    assert [sender.deliver_due() for _ in range(3)] == [0, 0, 0]  # it waits before the next one
    for _ in range(3):
        make_due(store)
        sender.deliver_due()
    assert len(one.got) == 1
    assert notes == ["recorder did not get the message: it is down; the search goes on"]


def test_clock_that_is_set_back_puts_no_attempt_off(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Earlier(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) - timedelta(hours=2)

    one = Recorder(failures=1)
    start_receiver(store.engine, one.name)
    end_a_study(store)
    assert Delivery(store, [one], lambda note: None).deliver_due() == 0
    monkeypatch.setattr(outbox_module, "datetime", Earlier)
    assert Delivery(store, [one], lambda note: None).deliver_due() == 1


def test_receiver_that_hangs_holds_up_no_other(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, go_on = threading.Event(), threading.Event()

    class Hangs(Recorder):
        name = "hangs"

        def send(self, store: Store, event: EventRecord) -> None:
            go_on.wait(60)

    class Tells(Recorder):
        def send(self, store: Store, event: EventRecord) -> None:
            told.set()

    monkeypatch.setattr(delivery, "apprise_receivers", lambda settings: [Hangs(), Tells()])
    monkeypatch.setattr(delivery, "POLL_SECONDS", 0.01)
    with delivering(store, pytest.fail):
        end_a_study(store)
        assert told.wait(30)
        go_on.set()


def test_receiver_that_never_answers_is_given_up(store: Store) -> None:
    one = Recorder(failures=100)
    start_receiver(store.engine, one.name)
    end_a_study(store)
    for _ in range(MOST_ATTEMPTS + 3):
        make_due(store)
        Delivery(store, [one], lambda note: None).deliver_due()
    assert one.failures == 100 - MOST_ATTEMPTS


@pytest.fixture
def inbox() -> Iterator[tuple[str, list[str]]]:
    """A web server: the URL of apprise for it, and the bodies that it got."""
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200 if SECRET in self.path else 500)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}/{SECRET}", got
        server.shutdown()


def configure(home: Path, **settings: object) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.yaml").write_text(yaml.safe_dump(settings))


def test_message_about_the_end_reaches_a_real_receiver_and_its_url_stays_out_of_the_record(
    store: Store,
    home: Path,
    inbox: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, got = inbox
    make_study(store, trials=6)
    monkeypatch.setenv("MY_RECEIVER", address)
    configure(home, notify={"url_env": ["MY_RECEIVER"]})
    with delivering(store, pytest.fail):
        end_a_study(store)
    assert len(got) == 1
    assert "study td-010 finished" in got[0]
    assert "best: trial" in got[0]
    assert not [file for file in home.rglob("*.db*") if SECRET.encode() in file.read_bytes()]


def test_failing_receivers_are_noted_without_their_url(store: Store, home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "url").write_text(f"json://127.0.0.1:1/{SECRET}")
    (home / "odd").write_text("what-is-this")
    files = [str(home / "url"), str(home / "odd"), str(home / "missing")]
    configure(home, notify={"url_files": files})
    notes: list[str] = []
    with delivering(store, notes.append):
        end_a_study(store, "failed")
    assert len(notes) == 3
    assert SECRET not in "".join(notes)
    with reading(store.engine) as connection:
        errors = connection.scalars(text("SELECT error FROM vs_outbox WHERE error != ''")).all()
    assert len(errors) == 3
    assert SECRET not in "".join(errors)


def test_old_news_is_not_sent(store: Store, study: StudyRecord) -> None:
    receiver = AppriseReceiver("notify:env:X", "X", ["finished"])
    start_receiver(store.engine, receiver.name)
    end_a_study(store)
    with writing(store.engine) as connection:
        connection.execute(text("UPDATE vs_events SET at = '2026-01-01 00:00:00'"))
    assert Delivery(store, [receiver], pytest.fail).deliver_due() == 0


def test_test_message_tells_which_receiver_failed(
    home: Path, inbox: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOD", inbox[0])
    configure(home, notify={"url_env": ["GOOD", "EMPTY"]})
    done = CliRunner().invoke(notify_command)
    assert "notify:env:GOOD: sent" in done.output
    assert "notify:env:EMPTY is empty" in done.output
    assert "1 of 2 receivers failed" in str(done.exception)


def test_example_of_the_docs_is_read(home: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "service.md").read_text("utf-8")
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    settings = load_settings()
    assert settings.notify.on == ["finished", "failed", "best"], "YAML reads the key `on` as true"
    assert settings.trackers == ["tensorboard"]


def test_configuration_that_is_no_mapping_is_refused(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.yaml").write_text("- notify\n")
    with pytest.raises(InputError, match="holds no settings"):
        load_settings()


def test_url_in_the_configuration_is_refused_and_not_shown(home: Path) -> None:
    configure(home, notify={"url_env": [f"ntfy://{SECRET}"]}, trackers=["tensorbord"])
    with pytest.raises(FaultyFileError) as refused:
        load_settings()
    assert "notify.url_env.0: the name of an environment variable" in refused.value.message
    assert "trackers.0" in refused.value.message
    assert SECRET not in refused.value.message


@pytest.mark.parametrize(("entry_id", "times"), [(None, 1), (7, 0)], ids=["worker", "companion"])
def test_worker_of_a_person_sends_messages_and_a_companion_leaves_them_to_its_run(
    store: Store,
    home: Path,
    write_study: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    entry_id: int | None,
    times: int,
) -> None:
    delivered: list[str] = []

    @contextmanager
    def deliver(store: Store, note: object) -> Iterator[None]:
        delivered.append("a run")
        yield

    for name in ("_run_leased", "_run_as_companion"):
        monkeypatch.setattr(run, name, lambda *_, **__: "it is over")
    monkeypatch.setattr(run, "delivering", deliver)
    prepared = prepare(load_study(write_study()), print)
    record = open_study(store, prepared, accept_changes=False)
    assert run.join_study(prepared, record, ENDLESS, FakeListener(), entry_id=entry_id)
    assert len(delivered) == times
