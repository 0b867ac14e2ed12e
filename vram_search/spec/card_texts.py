"""The name of a card within what people and other programs write around it."""

from __future__ import annotations

import re

MEBIBYTES = re.compile(r"(?<![a-z0-9])(\d{4,6}) ?(?:mib|mb)\b", re.IGNORECASE)
"""A size as nvidia-smi prints it."""
_ONE = re.compile(r"^\s*(?:gpu )?1 ?x ?(?=\D*\d)|(?<=\w) ?x ?1\s*$", re.IGNORECASE)
"""A single card, counted."""
_AROUND = re.compile(
    r"\(uuid:[^)]*\)|,\s*\d{3}\.\d[\d.]*"  # nvidia-smi -L, and its driver
    r"|^\W*(?:gpu|cuda:)(?: ?\d{1,2}\b|\[\d\])[\s:-]+(?=[a-z])|^\W*\d{1,2}[:,]\s*(?=[a-z])"
    r"|\s(?:off|on|wddm|tcc|mcdm)\s*$"  # the end of nvidia-smi's column
    r"|\bpci-?e (?:gen ?)?[2-6](?:\.0)?(?: ?x ?(?:16|8|4))?\b|\bpci-?e x ?(?:16|8|4)\b"
    r"|(?<=ventus) [23]x\b|(?<=asus )dual\b|\bdual(?= oc| \d+ ?g)|\btwin edge\b"
    r"|\bi[3579]-\d{4,5}\w*|\bryzen \d \d{4}\w*"  # the processor beside it
    r"|^ml\.(?=[a-z]+\d)|\bn1-\w+-\d+",  # SageMaker; Google's machines
    re.IGNORECASE,
)
"""Text around a name in the lines of other programs and shops."""
_OF_TORCH = re.compile(r"name='([^']+)'")
_SPELT = {
    "a6000 ada": "rtx 6000 ada",
    "rtx 8000": "quadro rtx 8000",
    "t4g": "t4",
    "v100s": "v100",
    **dict.fromkeys(("g4dn", "g5g"), "t4"),
    "g5": "a10g",
    "g6": "l4",
    "g6e": "l40s",
    "p4d": "a100 40gb",
    "p4de": "a100 80gb",
    "p5": "h100",
    "p5e": "h200",
    "p3": "v100 16gb",
    "p3dn": "v100 32gb",
    "gr6": "l4",
    "b200 192gb": "b200",  # 180 GB of it can be used
    **dict.fromkeys(("colab free", "free colab"), "t4"),
    r"colab pro\+?": "",
    # Google Cloud; the number of cards follows
    r"a2-(?:high|mega)gpu(?:-\d+g)?": "a100 40gb",
    r"a2-ultragpu(?:-\d+g)?": "a100 80gb",
    r"g2-standard(?:-\d+)?": "l4",
    r"a3-(?:high|mega|edge)gpu(?:-\d+g)?": "h100 80gb",
    r"a3-ultragpu(?:-\d+g)?": "h200",
    # Azure
    r"(?:standard )?nc\d+as t4 v3": "t4",
    r"(?:standard )?nc\d+s v3": "v100 16gb",
    r"(?:standard )?nd\d+rs v2": "v100 32gb",
    "(?:standard )?nd96asr v4": "a100 40gb",
    r"(?:standard )?(?:nc\d+ads|nd\d+amsr) a100 v4": "a100 80gb",
    r"(?:standard )?nc\d+adi?s h100 v5": "h100 nvl",
    r"(?:standard )?nd\d+isr h100 v5": "h100 80gb",
}
"""Second names of cards, and instances of clouds by their card: patterns in small letters."""
_INSTANCE = re.compile(r"\.(?:\d*x?large|metal)$")


def bare(text: str) -> str:
    """A name without what stands around it, and with x for a count."""
    if of_torch := _OF_TORCH.search(text):
        text = of_torch[1]
    text = re.sub(r"(?<=\d)[.,]0(?= ?gi?b)", "", text.replace("_", " "), flags=re.IGNORECASE)
    text = re.sub(r"(?<=.{8}), ?(\d{4,6})$", r", \1 MiB", text)  # nvidia-smi without units
    if "|" in text:  # a line of nvidia-smi's table
        text = next((part for part in text.split("|") if part.strip()), "")
        text = re.sub(r"^\s*\d+\s+", "", text).strip()
    text = re.sub(r"[\u00d7*](?= ?\d)|(?<=\d)[\u00d7*]", "x", text)
    return " ".join(_ONE.sub("", _AROUND.sub(" ", text)).split())


def rounded(text: str) -> str:
    """The text with GB for MiB."""
    return MEBIBYTES.sub(lambda size: f"{round(int(size[1]) / 1024)}GB", text)


def spelt_out(text: str) -> str:
    """Replaces second names, for example an instance's type, by the card's own."""
    text = _INSTANCE.sub("", text.replace("_", " "))
    for other, name in _SPELT.items():
        text = re.sub(rf"\b{other}(?!\w)", name, text)
    return text
