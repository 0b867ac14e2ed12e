"""Rows of a third task: a customer's message is classified and summarised in one line.

    python -m bench.curves.tickets > bench/curves/tickets.jsonl

The queue follows from what the customer wants, not from what the message mentions; the urgency from
two dates; the summary takes the order's number and the article from the text. One of two wordings
of the summary is left to chance, so that no model reaches a loss of 0.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from datetime import date, timedelta

from bench.curves.toolcalls import distinct_rows

ROWS = 260
SEED = 9

ARTICLES = ("kettle", "desk lamp", "rain jacket", "bicycle pump", "rice cooker", "garden hose",
            "wall clock", "sleeping bag", "paper shredder", "door mat", "hand mixer", "tea set",
            "camping stove", "step ladder", "reading chair", "shower head")  # fmt: skip
MOODS = ("I am patient, but", "Honestly,", "Sorry to bother you again,", "Just so you know,",
         "To be fair,", "As I said on the phone,")  # fmt: skip
MENTIONS = (
    "The invoice was correct.", "The parcel itself came quickly.", "I like the colour.",
    "My neighbour took the parcel in.", "I paid by card as always.",
    "Your shop's page was slow that evening.", "I have had an account with you for years.",
    "The box was a little dented, which does not matter.",
)  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What a customer may want.

    Attributes:
        says: sentences, with the article in braces.
        sums: two wordings of the summary.
    """

    queue: str
    says: tuple[str, ...]
    sums: tuple[str, str]


WISHES = (
    Wish(
        "billing",
        (
            "the {article} was charged twice. Please pay one of them back.",
            "my voucher was not taken off the price of the {article}. I want the difference.",
            "the sum for the {article} is higher than on the page. Please correct it.",
        ),
        ("wrong sum for {article}, money back", "asks for a refund of part of the {article}"),
    ),
    Wish(
        "delivery",
        (
            "the {article} has not arrived. Where is it?",
            "the {article} is said to be delivered, but nothing is here.",
            "please send the {article} to my office, I have moved.",
        ),
        ("{article} is not there, find the parcel", "asks where the {article} is"),
    ),
    Wish(
        "returns",
        (
            "the {article} is too large. I would like to send it back.",
            "the {article} is not what I had in mind. Which label do I use to return it?",
            "I changed my mind about the {article}. Please take it back.",
        ),
        ("{article} goes back, send a label", "wants to return the {article}"),
    ),
    Wish(
        "repair",
        (
            "the {article} stopped working after two days. Can it be mended?",
            "a part of the {article} is broken. Do you have that part?",
            "the {article} makes a noise and gets hot. What should I do?",
        ),
        ("{article} is faulty, offer a repair", "reports a defect of the {article}"),
    ),
    Wish(
        "account",
        (
            "I cannot log in to see the {article} in my orders. Please reset my password.",
            "please delete my account; the {article} was my last order.",
            "my address in the account is old; the {article} is not concerned.",
        ),
        ("login or data of the account, after {article}", "account needs a change, not {article}"),
    ),
)
URGENCIES = ((1, "today"), (4, "this week"), (30, "later"))
"""Days until the customer's date, at most, and the word."""


def row(drawn: random.Random) -> dict[str, str]:
    """A row in alpaca form."""
    wish, article = drawn.choice(WISHES), drawn.choice(ARTICLES)
    order = f"{drawn.choice('ABCDEF')}{drawn.randint(1000, 9999)}"
    today = date(2032, 1, 1) + timedelta(days=drawn.randrange(300))
    days = drawn.choice((0, 1, 2, 3, 4, 6, 9, 15, 24))
    until = today + timedelta(days=days)
    parts = [
        f"{drawn.choice(MOODS)} {drawn.choice(wish.says).format(article=article)}",
        f"I need an answer by {until:%A}, {until.isoformat()}.",
        drawn.choice((f"Order {order}.", f"It is about order {order}.")),
        *drawn.sample(MENTIONS, drawn.randint(0, 2)),
    ]
    drawn.shuffle(parts)
    urgency = next(word for limit, word in URGENCIES if days <= limit)
    summary = drawn.choice(wish.sums).format(article=article)
    return {
        "instruction": "Sort this message: queue, urgency, and a summary with the order.",
        "input": f"Received: {today:%A}, {today.isoformat()}\n{' '.join(parts)}",
        "output": f"queue: {wish.queue}\nurgency: {urgency}\n{order}: {summary}",
    }


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """So many rows, no message twice."""
    return distinct_rows(row, "input", count, seed)


def main() -> None:
    argparse.ArgumentParser(prog="python -m bench.curves.tickets", description=__doc__).parse_args()
    for made in rows(ROWS, SEED):
        print(json.dumps(made))


if __name__ == "__main__":
    main()
