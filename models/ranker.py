"""The ranker: DLRM with an item arm by representation and a history arm, from a Batch to logits and the loss.

Legend: B examples, T history positions, R representations, D embedding width, C context columns, F dense columns, S history tokens,
K tasks, V segmentations.
"""

import functools
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torchrec.models.dlrm import DenseArch, InteractionArch, OverArch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedTensor

from features.batch import Batch, BatchSchema, Features
from features.errors import InputError
from models.config import RankerConfig
from models.fusion import Gate
from models.history import HistoryArm


class RankerOutput(NamedTuple):
    """Logits, and what belongs to them in the batch: float32 [B, K], [B, K] and [B], int64 [B, V]."""

    logit_BK: torch.Tensor
    label_BK: torch.Tensor
    weight_B: torch.Tensor
    segment_BV: torch.Tensor


class Ranker(nn.Module):
    """P(click) of the target item given the user's history, dense and context features.

    One lookup serves both arms: the item KJT has a bag per position, its pooled output is viewed as [B, 1+T, R, D], R the tables of history
    items. Position 0 is the target. History positions sum their R vectors; with a gate, target and history have one vector each, a
    weighted mean of the R. Tables of the target alone, and of context columns, are a second lookup with one bag per example. The
    interaction has every pair of dense, target, history-summary and context vectors (TorchRec's InteractionArch), and the target with each
    history token; token pairs are left out, they would be quadratic in T.
    """

    def __init__(self, schema: BatchSchema, config: RankerConfig, device: torch.device | None = None) -> None:
        """Args: schema of the batches; config; device of the tables, "meta" to let the sharding allocate them."""
        super().__init__()
        self.width, self.length = config.embedding_dim, schema.history_length
        self.tables, self.targets_alone = len(schema.history_tables), len(schema.target_only_tables)
        self.targets = [index for index, name in enumerate(schema.history_tables) if name in schema.target_tables]
        rows = schema.item_tables
        self.item_embeddings = _tables({name: rows[name] for name in schema.history_tables}, self.width, device)
        for name in rows.keys() & schema.context_tables.keys():
            raise InputError(f"model.representations: '{name}' is also the name of a context column, which has a table of that name")
        context = {name: rows[name] for name in schema.target_only_tables} | schema.context_tables
        self.context_embeddings = _tables(context, self.width, device)
        self.item_names, self.context_names = list(schema.history_tables), list(context)
        self.dense_arch = DenseArch(len(schema.dense_columns), [*config.dense_arch, self.width])
        self.history_arm = HistoryArm(config, self.length, schema.shared_levels)
        self.gate = Gate(self.tables, self.width) if config.fusion == "gate" else None
        vectors = (1 if self.gate else len(self.targets)) + 1 + len(context)  # targets, history summary, the second lookup's
        self.interaction = InteractionArch(vectors)
        interactions = self.width + vectors + vectors * (vectors - 1) // 2 + (self.history_arm.tokens if schema.target_tables else 0)
        self.over_arch = OverArch(interactions, [*config.over_arch, len(schema.tasks)])

    def forward(self, batch: Batch) -> tuple[torch.Tensor, RankerOutput]:
        """The loss and what it was computed from.

        Returns:
            loss: this rank's share, summed over tasks; the mean over ranks, which gradient averaging takes, is the mean over the step's
                examples.
            output: detached, for the metrics.
        """
        logit_BK = self.logits(batch)
        each_B = functional.binary_cross_entropy_with_logits(logit_BK, batch.label_BK, reduction="none").sum(1)
        share = batch.weight_B.shape[0] * _world_size() / batch.rows_in_step
        loss = (each_B * batch.weight_B).mean() * share
        return loss, RankerOutput(logit_BK.detach(), batch.label_BK, batch.weight_B, batch.segment_BV)

    def logits(self, batch: Batch | Features) -> torch.Tensor:
        """float32 [B, K]."""
        target_BRD, history_BTD = self._items(batch)
        context_BCD = self._context(batch)
        tokens_BSD, real_BS = self.history_arm(history_BTD, batch.history_age_BT, batch.history_mask_BT, batch.shared_depth_BT)
        real_BS1 = real_BS.unsqueeze(-1).to(tokens_BSD.dtype)
        summary_BD = (tokens_BSD * real_BS1).sum(1) / real_BS1.sum(1).clamp(min=1)
        vectors = [target_BRD, summary_BD.unsqueeze(1), context_BCD]
        features = [self.interaction(self.dense_arch(batch.dense_BF), torch.cat(vectors, 1))]
        if self.targets or self.targets_alone:
            target_BD = target_BRD.sum(1) + context_BCD[:, : self.targets_alone].sum(1)
            features.append(((tokens_BSD @ target_BD.unsqueeze(-1)) * real_BS1).squeeze(-1))
        return self.over_arch(torch.cat(features, 1))

    def _items(self, batch: Batch | Features) -> tuple[torch.Tensor, torch.Tensor]:
        """The target's vectors in the tables of history items, and one vector per history position: float32 [B, R', D] and [B, T, D]."""
        if self.item_embeddings is None:
            none_BTD = torch.zeros_like(batch.history_age_BT).unsqueeze(-1).expand(-1, -1, self.width)
            return none_BTD[:, :0], none_BTD
        pooled = _in_order(self.item_embeddings(batch.items), self.item_names)  # [B*(1+T), R*D]
        items_BPRD = pooled.view(-1, 1 + self.length, self.tables, self.width)
        if self.gate is not None:
            fused_BPD = self.gate(items_BPRD)
            return fused_BPD[:, :1], fused_BPD[:, 1:]
        targets = [items_BPRD[:, 0, index : index + 1] for index in self.targets]  # slices: a list of indices would make a GPU wait
        return torch.cat([items_BPRD[:, 0, :0], *targets], 1), items_BPRD[:, 1:].sum(2)

    def _context(self, batch: Batch | Features) -> torch.Tensor:
        """The vectors of the second lookup, those of the target first: float32 [B, C, D]."""
        if self.context_embeddings is None:
            return batch.dense_BF[:, :0].unsqueeze(-1).expand(-1, -1, self.width)
        pooled = _in_order(self.context_embeddings(batch.context), self.context_names)
        return pooled.view(-1, pooled.shape[1] // self.width, self.width)


@torch.fx.wrap
def _in_order(pooled: KeyedTensor, names: list[str]) -> torch.Tensor:
    """Pooled vectors [.., R*D] in the order of `names`: a sharded collection gives them in its plan's, by rank."""
    return pooled.values() if pooled.keys() == names else KeyedTensor.regroup([pooled], [names])[0]


def _tables(rows: dict[str, int], width: int, device: torch.device | None) -> EmbeddingBagCollection | None:
    if not rows:
        return None
    taken = nn.ModuleDict()
    for name in rows:
        if hasattr(taken, name) or "." in name:
            raise InputError(f"model.representations: '{name}' cannot be a table's name, which torch keeps for itself")
    # TorchRec's own start, +-1/sqrt(H), makes products of rows vanish: a model that must learn from them stays on a plateau for long.
    start = functools.partial(nn.init.uniform_, a=-(width**-0.5), b=width**-0.5)
    configs = [
        EmbeddingBagConfig(
            name=name, embedding_dim=width, num_embeddings=count, feature_names=[name], pooling=PoolingType.SUM, init_fn=start
        )
        for name, count in rows.items()
    ]
    return EmbeddingBagCollection(tables=configs, device=device)


def _world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
