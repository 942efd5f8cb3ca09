"""What ViT-B/32 and ViT-B/16 attain on a CPU beside their own matrix products with nothing around them.

    python -m benchmarks.cpu_products [--encoders ViT-B/32,ViT-B/16]

A large matrix product runs at a rate that the products of a small batch don't reach: they have fewer rows, and their
weights come from memory or a shared cache. So each of our graphs alternates with the matrix products of its own batch,
in its own order, by the runtime that runs it and, but for integers, by torch (oneDNN). Of each graph: the rate of the
faster of the two, that rate's share of the peak (see benchmarks/cpu_engines.py), and the graph's share of the rate.
Needs openvino; weights are random. Writes benchmarks/results/cpu_products.json; about 10 minutes an encoder on two
cores that do nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cpu_engines import ENCODERS, SHIPPED, THREADS, add_encoder, called, make_run, ours, peaks
from export.latency.measure import MinSamples
from export.latency.roofline.limits import measure_limits
from toolkit.models.processing import preprocess_from
from toolkit.runtime.machine import describe_machine

RESULTS = Path(__file__).parent / "results" / "cpu_products.json"
SIZES = (1, 8)


def measured(name: str, least: MinSamples) -> dict[str, Any]:
    """Every form of one encoder, batch 1 and 8."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), ENCODERS[name])
        _, graphs = ours(run, Path(folder))
        peak = {precision: max(rates.values()) for precision, rates in peaks(least).items()}
        rows = []
        for provider, precisions in SHIPPED:
            loaders = {each: partial(graphs.__getitem__, called(each, provider)) for each in precisions}
            sizes = dict.fromkeys(precisions, SIZES)
            preprocess = preprocess_from(run.processor)
            limits = measure_limits(loaders, preprocess, sizes, provider=provider, threads=THREADS, least=least)
            rates = limits["ceilings"]["best_gflops"]
            for row in limits["network"]:
                products = rates[row["precision"]][str(row["batch_size"])]
                shares = {"products_share_of_peak": products / peak[row["precision"]]}
                rows.append({"engine": called(row["precision"], provider), "products_gflops": products} | shares | row)
                print(json.dumps(rows[-1]), flush=True)
        return {"peak_gflops": peak, "rows": rows, "machine": describe_machine() | {"threads": THREADS}}


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default=",".join(ENCODERS), help="comma-separated")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    for name in given.encoders.split(","):
        add_encoder(given.out, name, measured(name, MinSamples(given.runs, given.seconds)))


if __name__ == "__main__":
    main()
