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

from features.errors import InputError
from features.kjt import Batch, BatchSchema
from models.config import RankerConfig
from models.history import HistoryArm


class RankerOutput(NamedTuple):
    """Logits, and what belongs to them in the batch: float32 [B, K], [B, K] and [B], int64 [B, V]."""

    logit_BK: torch.Tensor
    label_BK: torch.Tensor
    weight_B: torch.Tensor
    segment_BV: torch.Tensor


class Ranker(nn.Module):
    """P(click) of the target item given the user's history, dense and context features.

    One lookup serves both arms: the item KJT has a bag per position, its pooled output is viewed as [B, 1+T, R, D]. Position 0 is the
    target. History positions sum their R vectors. The interaction has every pair of dense, target, history-summary and context vectors
    (TorchRec's InteractionArch), and the target with each history token; token pairs are left out, they would be quadratic in T.
    """

    def __init__(self, schema: BatchSchema, config: RankerConfig, device: torch.device | None = None) -> None:
        """Args: schema of the batches; config; device of the tables, "meta" to let the sharding allocate them."""
        super().__init__()
        self.width, self.length = config.embedding_dim, schema.history_length
        self.targets = [list(schema.item_tables).index(name) for name in schema.target_tables]
        self.tables = len(schema.item_tables)
        self.item_embeddings = _tables(schema.item_tables, self.width, device)
        self.context_embeddings = _tables(schema.context_tables, self.width, device) if schema.context_tables else None
        self.dense_arch = DenseArch(len(schema.dense_columns), [*config.dense_arch, self.width])
        self.history_arm = HistoryArm(config, self.length)
        sparse = len(self.targets) + 1 + len(schema.context_tables)
        self.interaction = InteractionArch(sparse)
        interactions = self.width + sparse + sparse * (sparse - 1) // 2 + (self.history_arm.tokens if self.targets else 0)
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

    def logits(self, batch: Batch) -> torch.Tensor:
        """float32 [B, K]."""
        pooled = self.item_embeddings(batch.items).values()  # [B*(1+T), R*D]
        items_BPRD = pooled.view(-1, 1 + self.length, self.tables, self.width)
        target_BRD = items_BPRD[:, 0, self.targets]
        tokens_BSD, real_BS = self.history_arm(items_BPRD[:, 1:].sum(2), batch.history_age_BT, batch.history_mask_BT)
        real_BS1 = real_BS.unsqueeze(-1).to(tokens_BSD.dtype)
        summary_BD = (tokens_BSD * real_BS1).sum(1) / real_BS1.sum(1).clamp(min=1)
        sparse = [target_BRD, summary_BD.unsqueeze(1)]
        if self.context_embeddings is not None:
            context = self.context_embeddings(batch.context).values()
            sparse.append(context.view(-1, context.shape[1] // self.width, self.width))
        features = [self.interaction(self.dense_arch(batch.dense_BF), torch.cat(sparse, 1))]
        if self.targets:
            features.append(((tokens_BSD @ target_BRD.sum(1).unsqueeze(-1)) * real_BS1).squeeze(-1))
        return self.over_arch(torch.cat(features, 1))


def _tables(rows: dict[str, int], width: int, device: torch.device | None) -> EmbeddingBagCollection:
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
