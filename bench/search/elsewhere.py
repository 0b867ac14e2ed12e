"""What a replayed search knows of other searches: the same for ours and for peers that transfer."""

from __future__ import annotations

from dataclasses import replace

from bench.search.replay import Replay
from vram_search.search.gp.transfer import SourceTask, shipped


def elsewhere(replay: Replay) -> list[SourceTask]:
    """The shipped runs of other tasks, without the configurations of the table.

    Two tasks of the tables share configurations, which no user's searches do.
    """
    table = replay.table
    replayed = {config.hyperparameters for config in (*table.configs, *table.left_out)}
    return [
        replace(one, trials=tuple(t for t in one.trials if t[0] not in replayed))
        for one in shipped()
        if one.name != replay.table.task
    ]
