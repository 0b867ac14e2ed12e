"""Words for the forecast of a night."""

from __future__ import annotations

from vram_search.estimate.night import ENOUGH_TRIALS, NightForecast, share_that_fits
from vram_search.units import end_words, format_duration, percent


def night_words(night: NightForecast) -> str:
    """The forecast in one sentence."""
    least, most = night.stopped_range
    return (
        f"one full trial takes about {format_duration(night.full_seconds)}; "
        f"{format_duration(night.seconds)} (until {end_words(night.seconds)}) hold about "
        f"{night.full} full and {least} to {most} stopped trials"
    )


def advice_words(night: NightForecast) -> str:
    """Proposes changes if the night holds too few trials; empty if it holds enough."""
    if not night.is_too_few:
        return ""
    share = share_that_fits(ENOUGH_TRIALS, night.full_seconds, night.seconds)
    return (
        f"that is few: --fit-night shortens each trial to about {percent(max(share, 0.05))} so "
        f"that {ENOUGH_TRIALS} fit; a smaller training.num_train_epochs, dataset.max_samples or "
        "more hours do it too"
    )
