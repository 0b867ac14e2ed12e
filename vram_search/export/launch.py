"""Writes the command that trains an export as a line, a bash script and a PowerShell script."""

from __future__ import annotations

from dataclasses import dataclass

from vram_search.spec.plan import MemoryPlan


@dataclass(frozen=True)
class Launch:
    """The command that starts a tool in the folder of its files.

    Attributes:
        command: has `{file}` for the YAML's name, which holds letters, digits, `.`, `_`, `-`.
        allocator: environment variable of torch's allocator that the tool does not change.
        sets_expandable_segments: True if the tool switches them on when they are not set.
    """

    command: str
    allocator: str = "PYTORCH_CUDA_ALLOC_CONF"
    sets_expandable_segments: bool = False

    def lines(self, title: str, stem: str, plan: MemoryPlan) -> list[str]:
        """Returns the first lines of a YAML; the very first one is the command."""
        bash = " ".join([*self._setting(plan), self.command.format(file=f"{stem}.yaml")])
        windows = self.command.format(file=f".\\{stem}.yaml")
        return [
            bash,
            "",
            f"{title}, started in the folder of this file (bash {stem}.sh, or .\\{stem}.ps1):",
            f"  bash        {bash}",
            f"  PowerShell  {windows}",
            *(["  (PyTorch on Windows has no expandable segments)"] if self._setting(plan) else []),
        ]

    def bash_script(self, stem: str, plan: MemoryPlan) -> str:
        exports = "".join(f"export {setting}\n" for setting in self._setting(plan))
        return (
            "#!/usr/bin/env bash\n"
            "set -eu\n"
            'cd -- "$(dirname -- "$0")"\n'
            "# The trial was searched on one GPU; more of them would multiply its batch.\n"
            'export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0}"\n'
            f"{exports}"
            f'exec {self.command.format(file=f"{stem}.yaml")} "$@"\n'
        )

    def powershell_script(self, stem: str) -> str:
        """Returns a script in ASCII; Windows PowerShell reads scripts in the system's encoding."""
        return (
            '$ErrorActionPreference = "Stop"\n'
            "Set-Location -LiteralPath $PSScriptRoot\n"
            "# The trial was searched on one GPU; more of them would multiply its batch.\n"
            'if (-not $env:CUDA_VISIBLE_DEVICES) { $env:CUDA_VISIBLE_DEVICES = "0" }\n'
            "# Files are UTF-8; Python on Windows otherwise reads them in the system's encoding.\n"
            '$env:PYTHONUTF8 = "1"\n'
            f"{self.command.format(file=f'{stem}.yaml')} @args\n"
            "exit $LASTEXITCODE\n"
        )

    def has_expandable_segments(self, text: str) -> bool:
        """Returns True if the first line of an exported YAML sets expandable segments."""
        return text.startswith(f"# {self.allocator}=expandable_segments:True ")

    def _setting(self, plan: MemoryPlan) -> list[str]:
        if plan.expandable_segments or self.sets_expandable_segments:
            return [f"{self.allocator}=expandable_segments:{plan.expandable_segments}"]
        return []
