"""All benchmarks at a small size: `python -m benchmarks`, or `--full` for the stated sizes."""

from __future__ import annotations

import sys

from benchmarks import (
    choice,
    cumulative,
    curve,
    example_formation,
    groups,
    jit,
    kmeans,
    logistic_regression,
    matching,
    memory_curve,
    mixture,
    newton,
    opaque,
    out_of_core,
    overhead,
    pagerank,
    prediction,
    processes,
    reading,
    record_linkage,
    segments,
    softmax,
    sparse_logistic,
    strengths,
    trees,
    worker_overhead,
    workers,
)
from benchmarks.measure import summary


def main() -> None:
    """Run each benchmark."""
    full = "--full" in sys.argv[1:]
    rows = "1000000" if full else "200000"
    overhead.main([])
    logistic_regression.main(["--rows", rows])
    logistic_regression.main(["--rows", rows, "--float32"])
    softmax.main([] if full else ["--rows", "100000"])
    jit.main([] if full else ["--rows", "200000", "--rounds", "2"])
    newton.main([] if full else ["--rows", "100000"])
    kmeans.main([] if full else ["--rows", "100000", "--rounds", "2"])
    mixture.main([] if full else ["--rows", "100000", "--rounds", "2"])
    strengths.main([] if full else ["--rows", "100000", "--iterations", "5", "--rounds", "2"])
    sparse_logistic.main([] if full else ["--rows", "20000", "--dimension", "100000"])
    processes.main([] if full else ["--rows", "500000", "--rounds", "2"])
    opaque.main(["--rows", rows])
    reading.main([] if full else ["--rows", "40000", "--lines", "400000"])
    matching.main([] if full else ["--rows", "500000"])
    example_formation.main([] if full else ["--rows", "300000"])
    groups.main([] if full else ["--rows", "500000"])
    pagerank.main([] if full else ["--edges", "500000", "--scale", "16", "--rounds", "2"])
    segments.main([] if full else ["--rows", "200000", "--rounds", "2"])
    cumulative.main([] if full else ["--rows", "5000000", "--rounds", "3"])
    record_linkage.main([] if full else ["--rows", "300000"])
    worker_overhead.main([] if full else ["--iterations", "500", "--rounds", "2"])
    workers.main(
        [] if full else ["--rows", "200000", "--edges", "500000", "--scale", "16", "--rounds", "2"]
    )
    trees.main([] if full else ["--megabytes", "1", "--ranks", "2", "8", "16", "--rounds", "2"])
    curve.main([] if full else ["--megabytes", "16", "--pings", "200", "--rounds", "2"])
    out_of_core.main([] if full else ["--rows", "500000", "--memory", "100000000"])
    memory_curve.main([] if full else ["--memory", "50000000", "--times", "0.5", "1", "2"])
    few = ["--quick", "--programs", "logistic regression", "groups", "PageRank"]
    prediction.main([] if full else few)
    choice.main([] if full else ["--programs", "logistic", "--rounds", "2"])
    print(f"\n{summary()}")


if __name__ == "__main__":
    main()
