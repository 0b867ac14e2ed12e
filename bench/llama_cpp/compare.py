"""A merged model in transformers beside its GGUF files in llama.cpp, loss by loss.

    python -m bench.llama_cpp.compare MERGED GGUF[+ADAPTER] ...

MERGED is the folder that `merge` wrote. Runs where `npm i -E node-llama-cpp@3.21.1` was run: it
brings llama.cpp's library built for this machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SCRIPT = Path(__file__).with_name("losses.mjs")
CHAT = [
    {"role": "user", "content": "A cup must be hot inside and cold outside. What would you try?"},
    {"role": "assistant", "content": "Separate the two demands in space: a wall with a vacuum."},
]


def main() -> None:
    """Prints the mean loss of each, and its largest difference from the merged model's."""
    parser = argparse.ArgumentParser(prog="python -m bench.llama_cpp.compare", description=__doc__)
    parser.add_argument("merged", help="the folder that `merge` wrote")
    parser.add_argument("others", nargs="+", metavar="GGUF[+ADAPTER]")
    options = parser.parse_args()
    merged, others = options.merged, options.others
    tokens = AutoTokenizer.from_pretrained(merged).apply_chat_template(CHAT, return_dict=False)
    ours = losses_of(merged, tokens)
    print(f"{len(ours)} tokens; mean loss {sum(ours) / len(ours):.4f} in transformers")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens.json"
        file.write_text(json.dumps(tokens), encoding="utf-8")
        for other in others:
            command = ["node", str(SCRIPT), str(file), *other.split("+")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            theirs = json.loads(done.stdout.splitlines()[-1])
            furthest = max(abs(a - b) for a, b in zip(ours, theirs["losses"], strict=True))
            print(f"{theirs['mean']:.4f} in llama.cpp, largest difference {furthest:.4f}: {other}")


def losses_of(folder: str, tokens: list[int]) -> list[float]:
    """Nats of each token after the first, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1]
    found = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none")
    losses: list[float] = found.tolist()
    return losses


if __name__ == "__main__":
    main()
