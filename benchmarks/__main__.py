"""`python -m benchmarks`."""

import typer

from .cli import bench_command

if __name__ == "__main__":
    typer.run(bench_command)
