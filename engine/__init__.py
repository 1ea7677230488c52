"""Physical operators, kernels, storage and runtimes: how a plan runs, and nothing of why."""
