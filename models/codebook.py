"""The codebook artifact: a trained RQ-VAE as safetensors and JSON with its hash, its Semantic ID contract and how good it is."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from features.errors import InputError
from features.files import publish_folder, write_durably
from features.semantic_id import SidContract
from models.config import QuantizerConfig
from models.rqvae import RQVAE

TENSORS = "codebook.safetensors"
DESCRIPTION = "codebook.json"
ENCODE_ITEMS = 8192  # items per step where the caller does not say


@dataclass(frozen=True)
class CodebookQuality:
    """How well a codebook describes items; low error alone implies neither full use of level 1 nor distinct ids.

    Attributes:
        items: number of items measured.
        reconstruction_error: squared error of the decoded vectors over the squared distance to their mean; 0 is perfect, 1 is no better
            than the mean.
        usage: per level, share of the K codes that some item has.
        entropy_bits: per level, entropy of the codes' distribution, at most log2 K.
        unique_share: share of the items whose Semantic ID no other item has.
        prefix_cosine: mean cosine of the content of two items that share a prefix of 0, 1, .. L codes; null where no two do.
    """

    items: int
    reconstruction_error: float
    usage: tuple[float, ...]
    entropy_bits: tuple[float, ...]
    unique_share: float
    prefix_cosine: tuple[float | None, ...]


@dataclass(frozen=True)
class Codebook:
    """A loaded artifact: the quantizer in evaluation mode, what its codes mean, and the quality figures that were saved."""

    model: RQVAE
    contract: SidContract
    quality: CodebookQuality


def codebook_hash(tensors: dict[str, Tensor]) -> str:
    """Hex sha256 over the tensors in name order: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def encode_in_batches(model: RQVAE, x_ND: Tensor, batch_size: int = ENCODE_ITEMS) -> Tensor:
    """Semantic IDs, int64 [N, L], of any number of content vectors in bounded extra memory."""
    return torch.cat([model.encode(batch) for batch in x_ND.split(batch_size)])


def measure(model: RQVAE, x_ND: Tensor) -> CodebookQuality:
    """Quality figures of `model` on content vectors float32 [N, D], N >= 1."""
    codes_NL = encode_in_batches(model, x_ND)
    K = model.config.codebook_size
    shares_LK = torch.stack([torch.bincount(codes_N, minlength=K) for codes_N in codes_NL.T]).double() / len(codes_NL)
    batches = zip(x_ND.split(ENCODE_ITEMS), codes_NL.split(ENCODE_ITEMS), strict=True)
    error = sum(float((x - model.decode(codes)).square().sum()) for x, codes in batches)
    spread = float((x_ND - x_ND.mean(0)).square().sum())
    unit_ND = torch.nn.functional.normalize(x_ND, dim=1)
    groups = [_groups(codes_NL[:, :length].numpy()) for length in range(codes_NL.shape[1] + 1)]
    return CodebookQuality(
        items=len(x_ND),
        reconstruction_error=error / spread if spread else 0.0,
        usage=tuple((shares_LK > 0).double().mean(1).tolist()),
        entropy_bits=tuple((torch.special.entr(shares_LK).sum(1) / np.log(2)).tolist()),
        unique_share=float((groups[-1].bincount() == 1).sum()) / len(x_ND),
        prefix_cosine=tuple(_mean_cosine(unit_ND, group_N) for group_N in groups),
    )


def save(path: Path, model: RQVAE, quality: CodebookQuality, source: str) -> SidContract:
    """Publish the artifact in `path`, whole or not at all, and return its contract (generation 1)."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    contract = SidContract(model.config.levels, model.config.codebook_size, codebook_hash(tensors), source, generation=1)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file(tensors, staging / TENSORS)
    with (staging / TENSORS).open("rb") as handle:
        os.fsync(handle.fileno())
    description = {
        "contract": contract.to_json(),
        "input_dim": model.input_dim,
        "config": model.config.model_dump(mode="json"),
        "quality": asdict(quality),
    }
    write_durably(staging / DESCRIPTION, json.dumps(description, indent=1).encode())
    publish_folder(staging, path)
    return contract


def load(path: Path) -> Codebook:
    """Load an artifact and verify that its tensors are those of its hash.

    Raises:
        InputError: naming the file that is missing, damaged, or not what the contract says.
    """
    described, stored = path / DESCRIPTION, path / TENSORS
    for file in (described, stored):
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    try:
        description = json.loads(described.read_text())
        config = QuantizerConfig.model_validate(description["config"])
        quality = CodebookQuality(**description["quality"])
        input_dim, contract_values = int(description["input_dim"]), dict(description["contract"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{described}: damaged ({' '.join(str(error).split())[:200]})") from error
    contract = SidContract.from_json(contract_values, str(described))
    try:
        tensors = load_file(stored)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{stored}: not a readable safetensors file ({error})") from error
    found = codebook_hash(tensors)
    if found != contract.codebook_hash:
        raise InputError(f"{stored}: tensors have hash {found[:12]}, {DESCRIPTION} says {contract.codebook_hash[:12]}")
    if (config.levels, config.codebook_size) != (contract.levels, contract.codebook_size):
        raise InputError(f"{described}: config and contract disagree on levels or codebook_size")
    model = RQVAE(input_dim, config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{stored}: tensors do not fit {DESCRIPTION} ({' '.join(str(error).split())[:200]})") from error
    return Codebook(model.eval(), contract, quality)


def _groups(codes_NL: np.ndarray) -> Tensor:
    """Number of each row's group, int64 [N]: equal rows have equal numbers."""
    return torch.from_numpy(np.unique(codes_NL, axis=0, return_inverse=True)[1].reshape(len(codes_NL)))


def _mean_cosine(unit_ND: Tensor, group_N: Tensor) -> float | None:
    """Mean over all pairs within groups; a group's pairs follow from the length of its sum, ||s||^2 = n + 2 * (sum over pairs)."""
    sizes_G = group_N.bincount()
    pairs = int((sizes_G * (sizes_G - 1)).sum())
    if not pairs:
        return None
    sums_GD = torch.zeros(len(sizes_G), unit_ND.shape[1], dtype=torch.float64).index_add_(0, group_N, unit_ND.double())
    own = float(unit_ND.double().square().sum())
    return (float(sums_GD.square().sum()) - own) / pairs
