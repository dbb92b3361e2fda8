"""The codebook artifact: a trained quantizer as safetensors and JSON with its hash, its Semantic ID contract and how good it is."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from features.errors import InputError
from features.files import publish_folder, write_durably
from features.semantic_id import SidContract
from models.quantizers.codebook_quality import CodebookQuality, encode_in_batches, measure
from models.quantizers.config import QuantizerConfig
from models.quantizers.kinds import build
from models.quantizers.quantizer import Quantizer

__all__ = ["Codebook", "CodebookQuality", "ContentOrigin", "codebook_hash", "encode_in_batches", "load", "measure", "save"]

TENSORS = "codebook.safetensors"
DESCRIPTION = "codebook.json"


@dataclass(frozen=True)
class ContentOrigin:
    """Where the vectors lay that a codebook was trained on.

    Attributes:
        path: folder of the content data set, relative to the artifact.
        fingerprint: its `Dataset.fingerprint`.
    """

    path: str
    fingerprint: str


@dataclass(frozen=True)
class Codebook:
    """A loaded artifact.

    Attributes:
        model: the quantizer in evaluation mode.
        contract: what its codes mean.
        quality: the figures that were saved with it.
        content: the vectors that it was trained on, where the artifact tells.
    """

    model: Quantizer
    contract: SidContract
    quality: CodebookQuality
    content: ContentOrigin | None = None


def codebook_hash(tensors: dict[str, Tensor]) -> str:
    """Hex sha256 over the tensors in name order: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def save(
    path: Path,
    model: Quantizer,
    quality: CodebookQuality,
    source: str,
    *,
    generation: int = 1,
    aligned_with: str | None = None,
    content: ContentOrigin | None = None,
) -> SidContract:
    """Publish the artifact, whole or not at all.

    Args:
        path: its folder, which is replaced.
        model: on any device.
        quality: from `measure`.
        source: name of the content embedding.
        generation: 1 for a first codebook; a refreshed one counts up.
        aligned_with: hash of the codebook that this one's codes were aligned with.
        content: the vectors that it was trained on.

    Returns:
        The Semantic ID contract of the codebook.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    contract = SidContract(model.config.levels, model.config.codebook_size, codebook_hash(tensors), source, generation, aligned_with)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file(tensors, staging / TENSORS)
    with (staging / TENSORS).open("rb") as handle:
        os.fsync(handle.fileno())
    description = {
        "contract": contract.to_json(),
        "input_dim": model.input_dim,
        # Without what its kind does not use, whose defaults may have changed by the time it is loaded.
        "config": model.config.model_dump(mode="json", exclude=set(model.config.unused())),
        "quality": asdict(quality),
        "content": None if content is None else asdict(content),
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
        content = ContentOrigin(**description["content"]) if description.get("content") else None
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
    model = build(input_dim, config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{stored}: tensors do not fit {DESCRIPTION} ({' '.join(str(error).split())[:200]})") from error
    return Codebook(model.eval(), contract, quality, content)
