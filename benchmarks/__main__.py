"""Run benchmarks one after another: ``python -m benchmarks [NAME ...]``; without names, the ones that need no corpora."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

QUICK = ("startup", "engine_overhead", "chain_kernel", "head_cost", "grid_messages")
LONG = ("conversation_folds",)


def main() -> int:
    """Run each in a process of its own with one thread; the exit code is that of the first that failed."""
    names = sys.argv[1:] or [*QUICK, *LONG]
    known = sorted(
        p.stem
        for p in Path(__file__).parent.glob("*.py")
        if p.stem not in ("__init__", "__main__", "timing", "densities", "nuts_peer", "hmc_peer", "tables_peer")
    )
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}\n")
        return 2
    failed = 0
    for name in names:
        sys.stdout.write(f"\n## {name}\n\n")
        sys.stdout.flush()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False)
        failed = failed or done.returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
