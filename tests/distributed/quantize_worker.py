"""Trains quantizers on all ranks and writes, from each rank, what came out."""

import json
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from features.dataset import open_dataset
from models.quantizers.codebook import codebook_hash, measure
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.quantizer import Quantizer
from models.quantizers.training import EpochReport
from pipeline.ranks import start_process_group
from pipeline.vectors import ContentVectors


def main(content: Path, out: Path, configs: str) -> None:
    """For each named configuration of the JSON object: the codebook's hash, its quality, and each epoch's error and share of codes used."""
    device = start_process_group()
    torch.set_num_threads(1)
    vectors = ContentVectors(open_dataset(content), window_rows=8192)
    results = {}
    for name, values in json.loads(configs).items():
        config = QuantizerConfig.model_validate(values)
        reports: list[EpochReport] = []
        model = fit(vectors, config, partial(_keep, reports), device=device)
        quality = measure(model, vectors)
        results[name] = {
            "hash": codebook_hash(model.state_dict()),
            "error": quality.reconstruction_error,
            "usage": quality.usage,
            "unique": quality.unique_share,
            "cosine": quality.prefix_cosine,
            "epochs": [[report.figures.reconstruction_error, min(report.figures.usage)] for report in reports],
        }
    (out / f"{dist.get_world_size()}-{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def _keep(reports: list[EpochReport], report: EpochReport, model: Quantizer) -> None:
    reports.append(report)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
