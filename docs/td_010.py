"""docs/td-010.md and its plot, from studies/td-010/ and configs/td-010/, for `generate.py`."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap

from vram_search.estimate.margin import margin_for
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import Estimate, predict_plausible
from vram_search.estimate.recipes.load import load_recipe
from vram_search.importing.table import load_table
from vram_search.spec import load_study
from vram_search.spec.card import Card, load_card
from vram_search.spec.card_memory import CardMemory
from vram_search.store import ImportedTrial
from vram_search.units import MIB, format_bytes

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "studies" / "td-010" / "experiments.csv"
RECIPES = {
    "TD-010v3 research": "research",
    "TD-010v3 ultra-lite": "ultra-lite",
    "TD-010v2": "variant-b",
    "Qwen2-7B of 26 November": "variant-c",
}
"""Run -> its settings in configs/td-010/, as far as the report gives them."""
VARIANTS = {
    "A": "3B with q, k, v and o",
    "B": "1.5B as in TD-010v2",
    "C": "back to Qwen2-7B",
}

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, FLOOR, BOTTOM = 70, 610, 30, 290, 350
"""Pixels: the plot's frame; below FLOOR lie the runs without an eval_loss."""
UNKNOWN_Y = FLOOR + 18
MAX_BILLIONS, LOSSES = 8.0, (0.92, 1.02)


@dataclass(frozen=True)
class Experiment:
    """A run of the report beside the estimate for its settings."""

    trial: ImportedTrial
    estimate: Estimate

    @property
    def run(self) -> str:
        return str(self.trial.provenance["run"])

    @property
    def model(self) -> str:
        return str(self.trial.provenance["model"]["name"]).rsplit("/", 1)[-1]

    @property
    def billions(self) -> float:
        return float(self.trial.provenance["model"]["parameters"]) / 1e9

    @property
    def eval_loss(self) -> float | None:
        return self.trial.result.eval_loss


def card() -> Card:
    """The report's."""
    return Card.model_validate(load_card("rtx-5060-ti-16gb"))


def budget_bytes() -> int:
    """The budget of the report's card by its file, whatever was calibrated on this machine."""
    report_card = card()
    memory = CardMemory(
        report_card.total_bytes, report_card.reserve_bytes, report_card.context_bytes
    )
    return memory.budget_bytes


def predicted(recipe: str) -> Estimate:
    """For the report's card as its file has it, whatever was calibrated on this machine."""
    workload = load_recipe(ROOT / "configs" / "td-010" / f"{recipe}.yaml").workload
    return predict_plausible(workload, Hardware.of(card())).with_replay()


def experiments() -> list[Experiment]:
    """All of the report, in its table's order."""
    return [
        Experiment(trial, predicted(RECIPES[trial.provenance["run"]]))
        for trial in load_table(EXPERIMENTS)
    ]


def page() -> str:
    """docs/td-010.md."""
    runs = experiments()
    lines = [
        "# TD-010: all experiments",
        "",
        *_paragraph(
            "Written by `make docs` from `studies/td-010/experiments.csv` (what the report of 27 "
            "November 2025 says, as data), `configs/td-010/` and the estimate; nothing was trained "
            "for this page. [TD-010v3, explained](td-010-explained.md) says why the report's "
            "figures come out as they do. A dash is unknown: the report does not say."
        ),
        "```sh",
        "vram-search import studies/td-010/experiments.csv --study td-010-report",
        "vram-search top --all --study td-010-report",
        "```",
        "",
        "## What was trained",
        "",
        *_table(
            ["run", "model", "LoRA", "optim", "batch x cutoff", "steps", "outcome"],
            [_settings_row(run) for run in runs],
        ),
        "## What came of it",
        "",
        *_table(
            [
                "run",
                "eval_loss",
                "train_loss",
                "trained parameters",
                "adapter",
                "VRAM, claimed",
                "required, predicted",
            ],
            [_figures_row(run) for run in runs],
        ),
        *_paragraph(
            "*VRAM, claimed* is the report's figure; it does not name the counter. *Required, "
            f"predicted* is the smallest limit on the {card().label} under which the settings run, "
            f"by `vram-search estimate`; the card has "
            f"{format_bytes(budget_bytes())} for it. "
            "Where the settings have a dash, the prediction takes what `configs/td-010/` assumes: "
            "for TD-010v2 the research run's batch and cutoff, for the 7B run these and rank 16 on "
            "all linear layers. Trained parameters that the report does not give follow from rank "
            "and modules."
        ),
        "## eval_loss against model size",
        "",
        "![eval_loss against parameters of the model](td-010.svg)",
        "",
        *_sweet_spot(runs),
        *_variants(),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _paragraph(text: str) -> list[str]:
    return [*wrap(text, 100, break_long_words=False, break_on_hyphens=False), ""]


def _settings_row(run: Experiment) -> list[str]:
    hp, settings = run.trial.hyperparameters, run.trial.provenance["settings"]
    result = run.trial.result
    rank = hp["lora_rank"]
    lora = f"{hp['lora_target'].replace(',', ', ')}, rank {rank}" if rank else "-"
    micro = settings.get("per_device_train_batch_size")
    batch = f"{micro} x {hp['cutoff_len']}" if micro else "-"
    steps = f"{result.steps_done} of {result.steps_total}" if result.steps_total else "-"
    return [run.run, run.model, lora, hp["optim"] or "-", batch, steps, result.outcome]


def _figures_row(run: Experiment) -> list[str]:
    reported, parameters = run.trial.provenance["reported"], run.trial.result.trainable_parameters
    adapter, vram = reported.get("adapter_bytes"), reported.get("vram_bytes")
    return [
        run.run,
        _loss(run.eval_loss),
        _loss(reported.get("train_loss")),
        f"{parameters:,}" if parameters else "-",
        f"{adapter / MIB:.2f} MiB" if adapter else "-",
        f"{vram / 1e9:.1f} GB" if vram else "-",
        format_bytes(run.estimate.required_bytes),
    ]


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _sweet_spot(runs: list[Experiment]) -> list[str]:
    best, *others = sorted(
        (run for run in runs if run.eval_loss is not None), key=lambda run: run.eval_loss or 0.0
    )
    smallest = min((best, *others), key=lambda run: run.estimate.required_bytes)
    assert smallest is best, "else the rule needs a standard error, which the report does not give"
    distances = {other.run: (other.eval_loss or 0) - (best.eval_loss or 0) for other in others}
    ahead = " and ".join(
        f"{other.run} by {distances[other.run]:.4f} in eval_loss and "
        f"{format_bytes(other.estimate.required_bytes - best.estimate.required_bytes)}"
        for other in others
    )
    without = " and ".join(
        f"{run.run} ({'no logs' if run.trial.result.outcome == 'complete' else 'died before'})"
        for run in runs
        if run.eval_loss is None
    )
    nearest = min(distances.values())
    unknown = (
        f"The eval_loss of {without}.",
        f"Whether the distance of {nearest:.4f} is more than chance: one run each, no losses by "
        "example, and the evaluation rows are not named.",
        "What made the difference: model, LoRA modules and optimizer changed together, and the "
        "learning rates, lora_alpha and accumulated batches are not given. A 3B model with all "
        "linear layers was not tried.",
        "Whether the losses may be compared at all: TD-010v2's cutoff_len is not given, and a "
        "shorter one makes other evaluation rows.",
        "TD-010v2's bytes, for the same reason; its batch is not given either.",
        "The peak on the card: one reading, of an unnamed counter, for one run.",
    )
    return [
        "## The sweet spot, as far as it is known",
        "",
        *_paragraph(
            f"**{best.run}** ({best.model}): of the runs with an eval_loss it has the lowest and "
            f"is predicted to need the fewest bytes; it is ahead of {ahead}. So the "
            "one-standard-error rule, the smallest run that is as good as the best, chooses it "
            "whatever the standard error is. The report, too, calls it the best result so far."
        ),
        "Still unknown:",
        "",
        *(line for text in unknown for line in _item(text)),
        "",
    ]


def _item(text: str) -> list[str]:
    return wrap(text, 100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _variants() -> list[str]:
    return [
        "## The variants, to be run",
        "",
        *_paragraph(
            "Each is a study that searches the learning rate, which the report does not name, on "
            "the rows shipped here, the same for all three; their losses compare with each other, "
            "not with the report's. Bytes are those of the report's plan and of rank 16 for C; "
            "`--dry-run` shows the fastest plan that fits."
        ),
        "```sh",
        *(
            f"vram-search run studies/td-010/variant-{letter.lower()}.yaml --dry-run"
            for letter in VARIANTS
        ),
        "```",
        "",
        *_table(
            ["variant", "study", "trained parameters", "required, predicted", "left of the card"],
            [_variant_row(letter, title) for letter, title in VARIANTS.items()],
        ),
    ]


def _variant_row(letter: str, title: str) -> list[str]:
    name = f"variant-{letter.lower()}"
    study = load_study(ROOT / "studies" / "td-010" / f"{name}.yaml")
    workload = load_recipe(ROOT / "configs" / "td-010" / f"{name}.yaml").workload
    estimate = predicted(name)
    needed = estimate.required_bytes * (1 + margin_for(workload.shape))
    return [
        f"{letter}: {title}",
        f"[{study.study}](../studies/td-010/{name}.yaml)",
        f"{estimate.trainable_parameters:,}",
        format_bytes(estimate.required_bytes),
        format_bytes(budget_bytes() - needed),
    ]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def plot() -> str:
    """docs/td-010.svg: a point a run; those without an eval_loss lie on a line below."""
    runs = experiments()
    unknown = [run.run for run in runs if run.eval_loss is None]
    heights = {run: UNKNOWN_Y + 24 * place for place, run in enumerate(unknown)}
    marks = [_mark(run, heights.get(run.run)) for run in runs]
    losses = [LOSSES[0] + 0.02 * step for step in range(6)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            ' font-family="sans-serif" font-size="13">',
            "<title>eval_loss against parameters of the model</title>",
            "<style>text{fill:#222}path{stroke:#999;fill:none}.known{fill:#0b62a4}"
            ".unknown{fill:none;stroke:#b04a00;stroke-width:2}"
            "@media(prefers-color-scheme:dark){svg{background:#111}text{fill:#ddd}"
            "path{stroke:#666}.known{fill:#6cb6f0}.unknown{stroke:#f0a060}}</style>",
            f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}M{LEFT} {FLOOR}H{RIGHT}"/>',
            *(
                f'<text x="{LEFT - 8}" y="{_y(loss) + 4:.0f}" text-anchor="end">{loss:.2f}</text>'
                for loss in losses
            ),
            *(
                f'<text x="{_x(size):.0f}" y="{BOTTOM + 18}" text-anchor="middle">{size}</text>'
                for size in range(0, 9, 2)
            ),
            f'<text x="{LEFT - 8}" y="{UNKNOWN_Y + 4}" text-anchor="end">unknown</text>',
            f'<text x="{LEFT - 55}" y="{TOP - 10}">eval_loss</text>',
            f'<text x="{RIGHT}" y="{BOTTOM + 38}" text-anchor="end">'
            "parameters of the model, billions</text>",
            *marks,
            "</svg>",
            "",
        ]
    )


def _mark(run: Experiment, unknown_y: int | None) -> str:
    """A run's point and label; without an eval_loss at the given height."""
    x, result = _x(run.billions), run.trial.result
    if unknown_y is None:
        kind, y, said = "known", _y(run.eval_loss or 0.0), _loss(run.eval_loss)
    else:
        kind, y, said = "unknown", unknown_y, result.outcome
    label = escape(f"{run.run}: {said}")
    anchor, shift = ("end", -10) if x > (LEFT + RIGHT) / 2 else ("start", 10)
    return (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
        f'<text x="{x + shift:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{label}</text>'
    )


def _x(billions: float) -> float:
    return LEFT + (RIGHT - LEFT) * billions / MAX_BILLIONS


def _y(loss: float) -> float:
    low, high = LOSSES
    return FLOOR - 10 - (FLOOR - 20 - TOP) * (loss - low) / (high - low)


def pages() -> dict[str, str]:
    """File name in docs/ -> its text."""
    return {"td-010.md": page(), "td-010.svg": plot()}
