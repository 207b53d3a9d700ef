"""How fast Headrace is.

python scripts/bench.py --scoring [--items N,...] [--device cpu|cuda] [--threads N] [--micro-batches N,...]
"""

import argparse
import json
import sys

import torch

from scripts.benchmarks import scoring


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scoring", action="store_true")
    parser.add_argument("--items", default="1700,10000,100000,1000000")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--micro-batches", default="64,256")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    import faiss

    faiss.omp_set_num_threads(given.threads)
    sizes = tuple(int(size) for size in given.micro_batches.split(","))
    result = {}
    for items in map(int, given.items.split(",")):
        result[str(items)] = {
            name: round(value, 4) for name, value in scoring.measure(items, given.device, sizes).items()
        }
        print(items, json.dumps(result[str(items)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
