"""The recorded studies of one database, and every question that can be asked about them.

Command line, Python API and service ask here, so that all give the same answers.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from vram_search.answers.lookup import find_study, find_trial
from vram_search.store import Store, open_store
from vram_search.store.location import database_url

if TYPE_CHECKING:
    from vram_search.answers.best import BestAnswer
    from vram_search.answers.compare import CompareAnswer
    from vram_search.answers.importance import ImportanceAnswer
    from vram_search.answers.next_study import NextAnswer
    from vram_search.answers.pareto import ParetoAnswer
    from vram_search.answers.show import ShowAnswer
    from vram_search.answers.studies import StudySummary
    from vram_search.answers.top import TopAnswer
    from vram_search.answers.why import WhyAnswer


class Results:
    """Answers questions about recorded studies.

    Every method takes the name of a study or its file; None means the study with the latest
    activity. Trials are named by their number, or as "best". Sizes are bytes, times are seconds,
    losses are nats per answer token. All methods raise `InputError` if the study or the trial does
    not exist, and `StoreError` if the database cannot be read. Use it as a context manager, or
    call `close`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def open(cls, database: str | None = None) -> Results:
        """Opens a database for reading.

        Args:
            database: a URL or an SQLite file; None: $VRAM_SEARCH_DATABASE, else the one in your
                data folder.

        Raises:
            StoreError: no database exists there, or vram-search did not write it.
        """
        return cls(open_store(database_url(database), create=False))

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database."""
        self.store.close()

    def studies(self) -> list[StudySummary]:
        """Lists all studies, newest activity first."""
        from vram_search.answers.studies import studies

        return studies(self.store)

    def best(
        self,
        study: str | None = None,
        *,
        card: str | None = None,
        limit: int | str | None = None,
        time_limit: float | str | None = None,
    ) -> BestAnswer:
        """Finds the complete trial with the lowest eval_loss, and the sweet spot.

        Args:
            card: slug of a card; only trials that fit it.
            limit: only trials that need at most these bytes, or a size such as "12 GiB".
            time_limit: only trials that took at most these seconds, or a time such as "30m".

        Raises:
            InputError: no complete trial is within the limits, or a limit cannot be read.
        """
        from vram_search.answers.best import best, parse_limits

        limits = parse_limits(card, limit, time_limit)
        return best(self.store, find_study(self.store, study), limits)

    def top(self, study: str | None = None, *, rows: int = 10) -> TopAnswer:
        """Lists the complete trials with the lowest eval_loss, best first.

        Args:
            rows: how many at most.
        """
        from vram_search.answers.top import top

        return top(self.store, find_study(self.store, study), rows=rows)

    def trials(self, study: str | None = None) -> TopAnswer:
        """Lists all trials in the order of their numbers."""
        from vram_search.answers.top import every_trial

        return every_trial(self.store, find_study(self.store, study))

    def show(self, trial: int | str, study: str | None = None) -> ShowAnswer:
        """Collects everything that is recorded about a trial."""
        from vram_search.answers.show import show

        record = find_study(self.store, study)
        return show(self.store, record, find_trial(self.store, record, str(trial)))

    def compare(
        self, first: int | str, second: int | str, study: str | None = None
    ) -> CompareAnswer:
        """Compares two trials; every difference is second minus first.

        Raises:
            InputError: both are the same trial.
        """
        from vram_search.answers.compare import compare

        record = find_study(self.store, study)
        trials = [find_trial(self.store, record, str(which)) for which in (first, second)]
        return compare(self.store, record, trials[0], trials[1])

    def pareto(self, study: str | None = None) -> ParetoAnswer:
        """Lists the complete trials by required bytes, and marks those on the Pareto front.

        Raises:
            InputError: no trial is complete, or the required bytes of none are known.
        """
        from vram_search.answers.pareto import pareto

        return pareto(self.store, find_study(self.store, study))

    def importance(self, study: str | None = None) -> ImportanceAnswer:
        """Computes how much of the spread of eval_loss each hyperparameter explains by itself.

        Raises:
            InputError: too few trials are complete, or no hyperparameter differs between them.
        """
        from vram_search.answers.importance import importance

        return importance(self.store, find_study(self.store, study))

    def next_study(self, study: str | None = None, *, seeds: bool = False) -> NextAnswer:
        """Proposes a narrower study for the next night, the best trials with other seeds (in any
        case if `seeds` is true), or to stop.

        Raises:
            InputError: the study holds imported runs, or no trial is complete.
        """
        from vram_search.answers.next_study import next_study

        return next_study(self.store, find_study(self.store, study), seeds=seeds)

    def why(self, trial: int | str, study: str | None = None) -> WhyAnswer:
        """Explains why a trial ended as it did."""
        from vram_search.answers.why import why

        record = find_study(self.store, study)
        return why(self.store, record, find_trial(self.store, record, str(trial)))
