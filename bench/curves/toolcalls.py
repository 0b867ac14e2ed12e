"""Rows of a second task: requests that are answered by one tool call and a sentence.

    python -m bench.curves.toolcalls > bench/curves/toolcalls.jsonl

Every value of the call must be inferred: the tool from the wish, a date from "today", an end from a
duration, a share from a sum. Which of the sentences follows is left to chance, so that no model
reaches a loss of 0.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

ROWS = 260
SEED = 6

NAMES = ("Aroha", "Bilal", "Chiara", "Dmitri", "Esi", "Farid", "Greta", "Hana", "Ivo", "Jonas",
         "Keiko", "Lwazi", "Mira", "Nils", "Oona", "Pavel")  # fmt: skip
TOWNS = ("Lund", "Graz", "Porto", "Ghent", "Tartu", "Split", "Basel", "Cork", "Brno", "Pisa")
ROOMS = ("kitchen", "study", "bedroom", "workshop", "hall", "greenhouse")
GOODS = ("oats", "lentils", "two lemons", "rye flour", "washing soda", "eggs", "a lamp bulb",
         "green tea", "batteries", "onions", "rice", "soap")  # fmt: skip
DURATIONS = {
    "a quarter of an hour": 15, "half an hour": 30, "three quarters of an hour": 45,
    "an hour": 60, "an hour and a quarter": 75, "an hour and a half": 90, "two hours": 120,
    "two and a half hours": 150, "three hours": 180,
}  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SIGNATURES = {
    "set_timer": "set_timer(minutes, label)",
    "book_room": "book_room(date, start, end, people)",
    "find_train": "find_train(origin, destination, date, after)",
    "split_bill": "split_bill(total, people, each)",
    "add_to_list": "add_to_list(list, items)",
    "set_heating": "set_heating(room, celsius)",
    "send_message": "send_message(to, text)",
}


@dataclass(frozen=True)
class Call:
    """A request, the arguments that it means, and sentences that may follow."""

    request: str
    arguments: dict[str, Any]
    sentences: tuple[str, ...]


def set_timer(drawn: random.Random, today: date) -> Call:
    words = drawn.choice(sorted(DURATIONS))
    label = drawn.choice(("dough", "laundry", "soup", "stretching", "glue", "phone call", "nap"))
    wish = drawn.choice(
        (
            f"Let me know when {words} has gone by, it is for the {label}.",
            f"The {label} needs {words}. Tell me when it is over.",
            f"I must not forget the {label}: remind me in {words}.",
        )
    )
    minutes = DURATIONS[words]
    return Call(
        wish,
        {"minutes": minutes, "label": label},
        (
            f"I will speak up in {minutes} minutes.",
            f"The {label} has {minutes} minutes from now.",
            f"Done: {minutes} minutes are running.",
        ),
    )


def book_room(drawn: random.Random, today: date) -> Call:
    words = drawn.choice(sorted(DURATIONS))
    day, weekday = next_weekday(drawn, today)
    begin = 60 * drawn.randint(8, 15) + drawn.choice((0, 15, 30))
    others = drawn.randint(2, 9)
    wish = drawn.choice(
        (
            f"{others} colleagues and I meet on {weekday} at {clock(begin)} for {words}.",
            f"On {weekday} I need a place for {words} from {clock(begin)}; "
            f"{others} guests come to see me.",
        )
    )
    end = clock(begin + DURATIONS[words])
    return Call(
        wish,
        {"date": day.isoformat(), "start": clock(begin), "end": end, "people": others + 1},
        (
            f"A room for {others + 1} is yours on {weekday} until {end}.",
            f"You can stay until {end}; there are {others + 1} chairs.",
            f"{weekday}, {clock(begin)} to {end}: it is noted.",
        ),
    )


def find_train(drawn: random.Random, today: date) -> Call:
    origin, destination = drawn.sample(TOWNS, 2)
    day, weekday = next_weekday(drawn, today)
    hour = drawn.randint(6, 17)
    busy = drawn.choice(("my shift ends", "school is out", "the talk is over", "I am free"))
    wish = drawn.choice(
        (
            f"I have to be in {destination} on {weekday}, but in {origin} {busy} at {hour}:20.",
            f"On {weekday} {busy} at {hour}:20. How do I get from {origin} to {destination} then?",
        )
    )
    after = f"{hour:02}:20"
    return Call(
        wish,
        {"origin": origin, "destination": destination, "date": day.isoformat(), "after": after},
        (
            f"I am looking for trains to {destination} after {after}.",
            f"Here is what leaves {origin} on {weekday} after {after}.",
            f"Let us see how {destination} can be reached that day.",
        ),
    )


def split_bill(drawn: random.Random, today: date) -> Call:
    people, each = drawn.randint(2, 8), drawn.randint(6, 40)
    total = people * each
    friends = drawn.sample(NAMES, 2)
    wish = drawn.choice(
        (
            f"{friends[0]} paid {total} euros for the {people} of us. What does each owe?",
            f"Dinner was {total} euros and we were {people}, {friends[0]} and {friends[1]} among "
            "us. Everyone pays the same.",
        )
    )
    return Call(
        wish,
        {"total": total, "people": people, "each": each},
        (
            f"It comes to {each} euros each.",
            f"{total} euros among {people} make {each}.",
            f"Everyone puts in {each} euros.",
        ),
    )


def add_to_list(drawn: random.Random, today: date) -> Call:
    items = drawn.sample(GOODS, drawn.randint(2, 4))
    enumerated = f"{', '.join(items[:-1])} and {items[-1]}"
    wish = drawn.choice(
        (
            f"We have run out of {enumerated}.",
            f"When I am at the shop I should get {enumerated}.",
            f"{drawn.choice(NAMES)} asks me to bring {enumerated} home.",
        )
    )
    return Call(
        wish,
        {"list": "shopping", "items": items},
        (
            f"{len(items)} things are on the list now.",
            f"I wrote down {enumerated}.",
            f"The shopping list has grown by {len(items)}.",
        ),
    )


def set_heating(drawn: random.Random, today: date) -> Call:
    room, now, change = drawn.choice(ROOMS), drawn.randint(16, 23), drawn.randint(1, 4)
    warmer = drawn.random() < 0.5
    celsius = now + change if warmer else now - change
    feeling, word = ("too cold", "more") if warmer else ("too warm", "less")
    wish = drawn.choice(
        (
            f"The {room} is at {now} degrees and that is {feeling}: {change} {word}, please.",
            f"It is {feeling} in the {room}. It shows {now}; I would like {change} {word}.",
        )
    )
    return Call(
        wish,
        {"room": room, "celsius": celsius},
        (
            f"The {room} is going to {celsius} degrees.",
            f"{celsius} degrees it is.",
            f"Give the {room} some time to reach {celsius}.",
        ),
    )


def send_message(drawn: random.Random, today: date) -> Call:
    name = drawn.choice(NAMES)
    minutes = drawn.choice((5, 10, 20, 25, 40))
    wish, text = drawn.choice(
        (
            (f"{name} should know that I come {minutes} minutes late.",
             f"I will be {minutes} minutes late."),
            (f"Ask {name} whether the meeting can start {minutes} minutes earlier.",
             f"Can we start {minutes} minutes earlier?"),
            (f"Thank {name} for waiting {minutes} minutes for me.",
             f"Thank you for waiting {minutes} minutes for me."),
        )
    )  # fmt: skip
    return Call(
        wish,
        {"to": name, "text": text},
        (f"{name} has the message.", f"I told {name}.", f"Sent; {name} will read it soon."),
    )


TOOLS: dict[str, Callable[[random.Random, date], Call]] = {
    "set_timer": set_timer,
    "book_room": book_room,
    "find_train": find_train,
    "split_bill": split_bill,
    "add_to_list": add_to_list,
    "set_heating": set_heating,
    "send_message": send_message,
}


def next_weekday(drawn: random.Random, today: date) -> tuple[date, str]:
    """A day of the coming week and its name."""
    day = today + timedelta(days=drawn.randint(1, 6))
    return day, WEEKDAYS[day.weekday()]


def clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def row(drawn: random.Random) -> dict[str, str]:
    """A row in alpaca form; four tools are on offer."""
    tool = drawn.choice(sorted(TOOLS))
    today = date(2031, 1, 1) + timedelta(days=drawn.randrange(365))
    call = TOOLS[tool](drawn, today)
    offered = [tool, *drawn.sample(sorted(set(TOOLS) - {tool}), 3)]
    drawn.shuffle(offered)
    tools = "\n".join(SIGNATURES[name] for name in offered)
    answer = json.dumps({"tool": tool, "arguments": call.arguments})
    return {
        "instruction": call.request,
        "input": f"Tools:\n{tools}\nToday: {WEEKDAYS[today.weekday()]}, {today.isoformat()}",
        "output": f"{answer}\n{drawn.choice(call.sentences)}",
    }


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """So many rows, no request twice."""
    return distinct_rows(row, "instruction", count, seed)


def distinct_rows(
    make: Callable[[random.Random], dict[str, str]], field: str, count: int, seed: int
) -> list[dict[str, str]]:
    """Draws so many rows of which no two have the same text in a field."""
    drawn = random.Random(seed)
    found: dict[str, dict[str, str]] = {}
    while len(found) < count:
        made = make(drawn)
        found.setdefault(made[field], made)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.curves.toolcalls", description=__doc__)
    parser.parse_args()
    for made in rows(ROWS, SEED):
        print(json.dumps(made))


if __name__ == "__main__":
    main()
