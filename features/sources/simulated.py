"""The simulated world: items in a topic tree that come and go, users with drifting tastes, and the true click probability of each row."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.history import MICROSECONDS_PER_HOUR, Histories, RunningCounts
from features.schema import IMPRESSIONS, ITEMS, ORACLE, TIMESTAMP, VECTOR
from features.sources.optional_columns import INTERESTS, LIKE, interests, like_probability, likes, topic_loadings
from features.sources.topic_tree import leaf_texts, tree_sum
from features.sources.topic_views import further_view, view
from features.sources.vocabulary import ADJECTIVES, NOUNS

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

START = np.datetime64("2025-01-01", "us").astype(np.int64)
HOUR = int(MICROSECONDS_PER_HOUR)
MILLISECOND = 1000
ROWS_PER_CHUNK = 1 << 16
HALF_LIFE_HOURS = 6 * 24.0  # paper A: half of the corpus leaves in six days
# Paper A: share of the items, share of the impressions, and how many times the first item of a class is shown as often as its last.
CLASSES = ((0.001, 0.25, 4.0), (0.055, 0.50, 30.0), (0.944, 0.25, 30.0))
TASTES = 8  # dimensions of a user's taste
DAILY_MEMORY = 0.97  # correlation of a user's taste with that of the day before
CLICK_RATE = 0.2
ITEM_EFFECT, TASTE_EFFECT = 1.5, 1.05  # standard deviations, in log-odds, over the impressions


class World:
    """All that is fixed before the first impression.

    log-odds of a click = bias + ITEM_EFFECT * effect(item) + TASTE_EFFECT * <taste(user, day), loading(leaf of item)>

    An item's effect is a sum over the levels of the topic tree (together `semantic_share` of its variance) plus a part of its own.
    A taste is N(0, I) at any time and moves a little every day; a leaf's loading is a unit vector, made like the effect of its nodes.
    """

    def __init__(
        self,
        *,
        impressions: int,
        items: int,
        users: int,
        days: int,
        tree: tuple[int, ...],
        vector_dim: int,
        semantic_share: float,
        seed: int,
        views: int = 1,
        second_task: bool = False,
        interests: bool = False,
    ) -> None:
        """Draw the world; the arguments are the fields of SimulateConfig. Memory: items * vector_dim * views + users * TASTES floats."""
        self.impressions, self.users, self.seed = impressions, users, seed
        self.hours = days * 24
        rng = np.random.default_rng([seed, 0])
        self.item_ids = np.sort(rng.choice(np.int64(items) * 1000, items, replace=False)) + 1
        self.tree, self.leaf = tree, rng.integers(0, int(np.prod(tree)), items)
        self._live(items, rng)
        self.rate = _popularity(np.minimum(self.death, self.hours) - np.maximum(self.birth, 0), rng)
        self.vectors = view(self.leaf, tree, vector_dim, rng)
        self.further = {number: further_view(self.leaf, tree, vector_dim, seed, number) for number in range(2, views + 1)}
        loading = tree_sum(tree, TASTES, rng)
        self.loading = loading / np.linalg.norm(loading, axis=1, keepdims=True)
        self.like = like_probability(self.leaf, tree, seed) if second_task else None
        self.topics = topic_loadings(self.loading, tree) if interests else None
        self.impressions_schema = pa.schema([*IMPRESSIONS, ORACLE, *([LIKE] if second_task else []), *([INTERESTS] if interests else [])])
        effect = _item_effect(self.leaf, tree, semantic_share, rng)
        mean = np.average(effect, weights=self.rate)
        self.effect = (effect - mean) / np.sqrt(np.average((effect - mean) ** 2, weights=self.rate))
        self.bias = _bias(self.effect, self.rate, rng)
        self._words = rng.integers(0, 40, (2, items))
        self._activity = np.cumsum(rng.lognormal(0.0, 1.0, users))
        self._user_ids = np.sort(rng.choice(np.int64(users) * 1000, users, replace=False)) + 1

    def items_table(self) -> pa.Table:
        """features.schema.ITEMS plus vector_content, and vector_view_2, .. where there are further views, by item id."""
        leaves, adjectives, nouns = (
            np.array(words, dtype=object) for words in (leaf_texts(self.tree), ADJECTIVES.split(","), NOUNS.split(","))
        )
        extra = adjectives[self._words[0]] + " " + nouns[self._words[1]]
        texts = leaves[self.leaf] + ", " + extra
        created = pa.array(START + _milliseconds(self.birth)).cast(TIMESTAMP)
        strings = (pa.nulls(len(texts), pa.string()), pa.array(extra, pa.string()), pa.array(texts, pa.string()))
        table = pa.table([self.item_ids, created, *strings], schema=ITEMS)
        for name, values in {"content": self.vectors, **{f"view_{number}": values for number, values in self.further.items()}}.items():
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            table = table.append_column(pa.field(VECTOR + name, vectors.type, nullable=False), vectors)
        return table

    def impressions_tables(self, history_length: int) -> Iterator[pa.Table]:
        """The log in time order, a table per chunk of a day, as IMPRESSIONS, oracle_probability and what else was asked for.

        Memory: a chunk, the last `history_length` clicks of each user, and a count per item.
        """
        past, counts = Histories(*(np.empty(0, np.int64) for _ in range(3))), RunningCounts()
        for index, (time, item, user, taste, probability) in enumerate(self.rows()):
            click = np.random.default_rng([self.seed, 3, index]).random(len(time)) < probability
            seen, users = past.latest(history_length), self._user_ids[user]
            past = Histories(*(np.concatenate((a, b[click])) for a, b in zip(seen, (time, users, self.item_ids[item]), strict=True)))
            history_items, history_times = past.before(time, users, history_length)
            count = counts.count(time, self.item_ids[item])
            columns = {
                "timestamp": pa.array(time).cast(TIMESTAMP),
                "user_id": users,
                "item_id": self.item_ids[item],
                "label_click": click.astype(np.int8),
                "dense_past_count": count.astype(np.float32),
                "dense_age_hours": ((time - START - _milliseconds(self.birth[item])) / MICROSECONDS_PER_HOUR).astype(np.float32),
                "history_item_ids": history_items,
                "history_timestamps": history_times,
                "past_impressions": count.astype(np.int32),
                "oracle_probability": probability,
            }
            if self.like is not None:
                columns[LIKE.name] = likes(click, self.like[item], self.seed, index)
            if self.topics is not None:
                columns[INTERESTS.name] = interests(taste, self.topics, self.seed, index)
            yield pa.table(columns, schema=self.impressions_schema)

    def rows(self) -> Iterator[tuple[Int64, Int64, Int64, Float, Float]]:
        """Time (microseconds), item, user, the user's taste [n, TASTES] and click probability of each chunk's rows, sorted by time."""
        per_day = -(-self.impressions * 24 // (self.hours * ROWS_PER_CHUNK))
        edges = np.linspace(0, self.hours, self.hours // 24 * per_day + 1)
        rate = self.rate / (np.minimum(self.death, self.hours) - np.maximum(self.birth, 0))
        traffic = np.array([(rate * self._overlap(low, high)).sum() for low, high in pairwise(edges)])
        sizes = np.random.default_rng([self.seed, 1]).multinomial(self.impressions, traffic / traffic.sum())
        taste = np.random.default_rng([self.seed, 4]).standard_normal((self.users, TASTES))
        for index, size in enumerate(sizes):
            rng = np.random.default_rng([self.seed, 2, index])
            if index and index % per_day == 0:
                taste = DAILY_MEMORY * taste + np.sqrt(1 - DAILY_MEMORY**2) * rng.standard_normal(taste.shape)
            low, high = edges[index], edges[index + 1]
            item = _draw(np.cumsum(rate * self._overlap(low, high)), size, rng)
            first, last = np.maximum(self.birth[item], low), np.minimum(self.death[item], high)
            hour = first + rng.random(size) * (last - first)
            order = np.argsort(hour, kind="stable")
            item, user = item[order], _draw(self._activity, size, rng)
            tastes = taste[user]
            yield START + _milliseconds(hour[order]), item, user, tastes, self.click_probability(item, tastes)

    def click_probability(self, item: Int64, taste: Float) -> Float:
        """The true probability of each click: float64 [n], of item numbers int64 [n] and the users' tastes at the time, [n, TASTES]."""
        affinity = np.einsum("nd,nd->n", taste, self.loading[self.leaf[item]])
        return _sigmoid(self.bias + ITEM_EFFECT * self.effect[item] + TASTE_EFFECT * affinity)

    def _live(self, items: int, rng: np.random.Generator) -> None:
        """Births and deaths in hours from the start of the log, of a corpus in balance: what dies is replaced, nothing ages."""
        mean_life = HALF_LIFE_HOURS / np.log(2)
        at_start = rng.random(items) < 1 / (1 + self.hours / mean_life)
        self.birth = np.where(at_start, -rng.exponential(mean_life, items), rng.random(items) * self.hours)
        self.death = np.maximum(self.birth, 0) + rng.exponential(mean_life, items)

    def _overlap(self, low: float, high: float) -> Float:
        return np.maximum(0.0, np.minimum(self.death, high) - np.maximum(self.birth, low))


def _popularity(exposure: Float, rng: np.random.Generator) -> Float:
    """Each item's share of all impressions [N], in the classes of paper A; those shown for long are likelier to be popular."""
    # Weight exposure**2: an item popular for a few hours alone would be a spike of traffic.
    order = np.argsort(-(2 * np.log(exposure) + rng.gumbel(size=len(exposure))))
    bounds = np.round(np.cumsum([0.0] + [share for share, _, _ in CLASSES]) * len(order)).astype(int)
    rate = np.zeros(len(order))
    for (_, share, spread), low, high in zip(CLASSES, bounds[:-1], bounds[1:], strict=True):
        falling = spread ** -np.linspace(0, 1, high - low)
        rate[order[low:high]] = share * falling / falling.sum()
    return rate / rate.sum()


def _item_effect(leaf: Int64, tree: tuple[int, ...], semantic_share: float, rng: np.random.Generator) -> Float:
    own = rng.standard_normal(len(leaf))
    return np.sqrt(semantic_share) * tree_sum(tree, 1, rng)[leaf, 0] + np.sqrt(1 - semantic_share) * own


def _bias(effect: Float, rate: Float, rng: np.random.Generator) -> float:
    """The constant at which the click rate over the impressions is CLICK_RATE, by bisection on a sample."""
    item = _draw(np.cumsum(rate), 1 << 16, rng)
    odds = ITEM_EFFECT * effect[item] + TASTE_EFFECT * rng.standard_normal(len(item))
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(odds + middle).mean() < CLICK_RATE else (low, middle)
    return low


def _draw(cumulative: Float, size: int, rng: np.random.Generator) -> Int64:
    point = rng.random(size) * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, point, side="right"), np.searchsorted(cumulative, cumulative[-1]))


def _milliseconds(hours: Float) -> Int64:
    """Hours to microseconds, rounded down to whole milliseconds."""
    return np.floor(hours * (HOUR // MILLISECOND)).astype(np.int64) * MILLISECOND


def _sigmoid(odds: Float) -> Float:
    return 1 / (1 + np.exp(-odds))
