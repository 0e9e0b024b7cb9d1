"""Peers on tables, in their own environment: ``python -m benchmarks.tables_peer synthesize|judge ...``; prints JSON.

synthesize NAME TRAIN.csv OUT.csv ROWS SEED KINDS.json: SDV's GaussianCopula, CTGAN or TVAE; seconds of CPU.
judge TEST.csv SYNTHETIC.csv KINDS.json: shapes and pair trends of sdmetrics' quality report.

KINDS.json names each column numerical or categorical. Imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any


def read(path: str, kinds: dict[str, str]) -> Any:
    """A table whose categories are texts, whatever they look like; an empty cell is missing."""
    import pandas as pd

    texts = {name: str for name, kind in kinds.items() if kind == "categorical"}
    return pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])


def synthesize(name: str, train: str, out: str, rows: int, seed: int, kinds: dict[str, str]) -> dict[str, float]:
    """Fit a synthesizer on a table and write as many rows as were asked for."""
    import numpy as np
    import torch
    from sdv.metadata import Metadata
    from sdv.single_table import CTGANSynthesizer, GaussianCopulaSynthesizer, TVAESynthesizer

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)
    table = read(train, kinds)
    metadata = Metadata.detect_from_dataframes({"t": table}, infer_keys=None)
    for column, kind in kinds.items():
        metadata.update_column(column, table_name="t", sdtype=kind)
    makers = {
        "GaussianCopula": lambda: GaussianCopulaSynthesizer(metadata),
        "CTGAN": lambda: CTGANSynthesizer(metadata, epochs=150, enable_gpu=False),
        "TVAE": lambda: TVAESynthesizer(metadata, epochs=150, enable_gpu=False),
    }
    begin = time.process_time()
    synthesizer = makers[name]()
    synthesizer.fit({"t": table})
    fitted = time.process_time()
    drawn = synthesizer.sample(rows)
    drawn = drawn["t"] if isinstance(drawn, dict) else drawn
    done = time.process_time()
    drawn[list(table.columns)].to_csv(out, index=False)
    return {"fit_cpu_s": fitted - begin, "generate_cpu_s": done - fitted}


def judge(test: str, synthetic: str, kinds: dict[str, str]) -> dict[str, float]:
    """The two properties of sdmetrics' quality report."""
    from sdmetrics.reports.single_table import QualityReport

    real, drawn = read(test, kinds), read(synthetic, kinds)
    for column, kind in kinds.items():
        if kind == "numerical":
            real[column], drawn[column] = real[column].astype(float), drawn[column].astype(float)
    report = QualityReport()
    metadata = {"columns": {name: {"sdtype": kind} for name, kind in kinds.items()}}
    report.generate(real, drawn[list(kinds)], metadata, verbose=False)
    found = report.get_properties().set_index("Property")["Score"]
    return {"shapes": float(found["Column Shapes"]), "pairs": float(found["Column Pair Trends"])}


def main() -> None:
    """Do what the arguments say."""
    warnings.filterwarnings("ignore")
    what, *rest, kinds_file = sys.argv[1:]
    kinds = json.loads(Path(kinds_file).read_text())
    if what == "synthesize":
        name, train, out, rows, seed = rest
        found = synthesize(name, train, out, int(rows), int(seed), kinds)
    else:
        test, synthetic = rest
        found = judge(test, synthetic, kinds)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
