"""Refreshing a codebook in stage quantize: the older codebook is the start, its codes are kept by name, and what was kept is reported."""

from pathlib import Path

from features.errors import InputError
from models.quantizers.alignment import align, kept_prefixes
from models.quantizers.codebook import DESCRIPTION, Codebook, load
from models.quantizers.codebook_quality import encode_in_batches, measure
from models.quantizers.collectives import broadcast
from models.quantizers.kinds import build
from models.quantizers.quantizer import Quantizer
from models.quantizers.vectors import Vectors
from pipeline.config import RunConfig
from pipeline.progress import say

ALIGNED_ITEMS = 200_000  # items, drawn uniformly, that codes are matched by and that the report is of


def predecessor(config: RunConfig, source: str, width: int) -> Codebook | None:
    """The older codebook of `source`; None where there is nothing to refresh.

    `quantize.refresh_from` names a codebook, or a folder that has one of each source, as a run's own `codebook`. A source that it has no
    codebook of is new: it is trained from the start.

    Raises:
        InputError: if it is missing or damaged, is the one that the stage will write, or differs from the new one in levels, codebook size,
            source or width of the content, or is one codebook for several sources; names both sides.
    """
    path = _of_source(config, source)
    if path is None:
        return None
    if path.resolve() == config.path("codebook", source).resolve():
        raise InputError(f"quantize.refresh_from {path} is the folder that the stage writes; copy the older codebook to another")
    old = load(path)
    contract, settings = old.contract, config.quantize
    here = {"levels": settings.levels, "codebook_size": settings.codebook_size, "source": source, "width": width}
    there = {name: getattr(contract, name) for name in ("levels", "codebook_size", "source")} | {"width": old.model.input_dim}
    for name, value in here.items():
        if there[name] != value:
            raise InputError(f"quantize.refresh_from: {name} is {there[name]!r} in {path} but {value!r} in the new codebook")
    return old


def _of_source(config: RunConfig, source: str) -> Path | None:
    given, sources = config.quantize.refresh_from, config.embed.sources
    if given is None:
        return None
    if (given / DESCRIPTION).is_file():
        if len(sources) > 1:
            raise InputError(
                f"quantize.refresh_from {given} is one codebook, but embed.sources are {', '.join(sources)}: name the folder of theirs"
            )
        return given
    if not (given / source).is_dir() and any((given / other).is_dir() for other in sources):
        say(f"quantize: {given} has no codebook of {source}, which is trained from the start")
        return None
    return given / source


def start_from(old: Codebook | None, config: RunConfig) -> Quantizer | None:
    """The quantizer that training goes on from: the older one where it has the same architecture; None starts from scratch."""
    if old is None:
        return None
    fresh = build(old.model.input_dim, config.quantize).state_dict()
    same_kind = old.model.config.kind == config.quantize.kind
    same_shapes = {name: tensor.shape for name, tensor in old.model.state_dict().items()} == {name: t.shape for name, t in fresh.items()}
    return old.model if same_kind and same_shapes else None


def keep_codes(old: Codebook, model: Quantizer, vectors: Vectors) -> list[str]:
    """Rename the codes of `model` after those of the older codebook; a collective call, after which all ranks have the same model.

    Args:
        old: the older codebook.
        model: the refreshed one, relabelled in place.
        vectors: the new content. All items have codes of both: those that came after the older codebook was trained got theirs from it too.

    Returns:
        The report's lines: how many items keep their prefixes, and both codebooks' reconstruction errors on the new content.
    """
    x_ND = vectors.sample(ALIGNED_ITEMS, model.config.seed).to(model.mean_D.device)
    older = old.model.to(x_ND.device)
    old_codes, new_codes = (encode_in_batches(one, x_ND).cpu().numpy() for one in (older, model))
    before = kept_prefixes(old_codes, new_codes)
    after = kept_prefixes(old_codes, align(model, old_codes, new_codes))
    broadcast(model.state_dict().values())
    errors = [measure(one, vectors).reconstruction_error for one in (older, model)]
    lengths = "".join(f"{length:>8}" for length in range(1, model.config.levels + 1))
    return [
        f"refreshed from codebook {old.contract.codebook_hash[:12]} of generation {old.contract.generation}",
        f"items of {len(x_ND):,} that keep their prefix of{lengths} codes",
        f"{'before the codes are matched':>38}{''.join(f'{share:>8.1%}' for share in before)}",
        f"{'after':>38}{''.join(f'{share:>8.1%}' for share in after)}",
        f"reconstruction error on the new content: {errors[0]:.4f} by the older codebook, {errors[1]:.4f} by the new one",
    ]
