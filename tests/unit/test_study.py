"""What findings read of a study, against scikit-learn and bootstraps written out by hand; and which results belong to which training."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import t as student_t
from sklearn.metrics import log_loss, roc_auc_score

from features.dataset import open_dataset, read_table
from features.errors import InputError
from pipeline.recipe import with_overrides
from pipeline.reproduce import study as studies
from pipeline.reproduce import tasks
from pipeline.reproduce.core import RANDOM_HASH, core, represented, target_only
from pipeline.reproduce.study import Part, Study, merged, over_seeds
from pipeline.reproduce.tasks import Train, code_behind
from pipeline.reproduce.world import Coding, Variant, World
from tests.toy_log import write_toy_log
from tests.unit.toy_study import BATCH, ROWS, put_scores, toy_study, toy_world

TRAINED = int(0.8 * ROWS) // BATCH * BATCH
DRAWS = 40
PARTS: dict[Part, slice] = {"training": slice(0, TRAINED), "frozen": slice(TRAINED, ROWS), "stream": slice(ROWS // 2, ROWS)}


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "DRAWS", DRAWS)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return toy_study(tmp_path_factory.mktemp("study"))


class Log:
    """The columns that count, read without the code under test."""

    def __init__(self, study: Study, part: Part) -> None:
        table = read_table(open_dataset(study.world.folder / "own" / "impressions")).slice(
            PARTS[part].start, PARTS[part].stop - PARTS[part].start
        )
        self.labels, self.users, self.items = (table.column(name).to_numpy() for name in ("label_click", "user_id", "item_id"))


def stored(study: Study, name: str, part: Part) -> list[NDArray[np.float32]]:
    """Logits of each seed, as they lie on the disk."""
    folders = [task.results for task in study.tasks() if task.variant == name]
    if part == "frozen":
        return [np.load(folder / "frozen.npy") for folder in folders]
    return [np.load(folder / "stream.npy")[PARTS[part]] for folder in folders]


def test_parts_are_the_rows_that_training_and_the_papers_mean(study: Study) -> None:
    assert study.train_rows == TRAINED
    for part, rows in PARTS.items():
        assert study.rows(part) == rows
        assert study.labels(part).tolist() == Log(study, part).labels.tolist()
        scores = study.scores("semantic_id", part)
        assert scores.shape == (3, rows.stop - rows.start)
        assert [list(mine) for mine in scores] == [list(theirs) for theirs in stored(study, "semantic_id", part)]
        assert study.probabilities("semantic_id", part) == pytest.approx(expit(scores.astype(float)))


def test_segments_part_the_rows_by_what_training_held(study: Study) -> None:
    (parting,) = study.segments("frozen")
    trained = set(Log(study, "training").items.tolist())
    assert parting.segments["new"].tolist() == [item not in trained for item in Log(study, "frozen").items.tolist()]
    assert {part.by for part in study.segments("stream")} == {"past_impressions", "dense_age_hours"}
    for parting in study.segments("stream"):
        assert np.stack(list(parting.segments.values())).sum(0).tolist() == [1] * (ROWS - ROWS // 2)
    assert study.segments("training") == []


@pytest.mark.parametrize("part", PARTS)
def test_ne_is_log_loss_over_entropy(study: Study, part: Part) -> None:
    labels = Log(study, part).labels
    chosen = np.arange(len(labels)) % 3 == 0
    for mine in (chosen, np.ones(len(labels), bool)):
        rate = labels[mine].mean()
        entropy = log_loss(labels[mine], np.full(mine.sum(), rate))
        losses = [log_loss(labels[mine], expit(scores[mine].astype(float))) for scores in stored(study, RANDOM_HASH, part)]
        assert study.ne(RANDOM_HASH, part, mine) == pytest.approx(np.mean(losses) / entropy, rel=1e-9)
    assert np.isnan(study.ne(RANDOM_HASH, part, np.zeros(len(labels), bool)))
    assert np.isnan(study.ne(RANDOM_HASH, part, labels == 1))


@pytest.mark.parametrize("part", PARTS)
def test_the_gain_is_that_of_scikit_learns_log_loss_and_its_interval_that_of_a_bootstrap_by_hand(study: Study, part: Part) -> None:
    log = Log(study, part)
    chosen = log.items % 2 == 0
    pairs = list(zip(stored(study, "semantic_id", part), stored(study, RANDOM_HASH, part), strict=True))

    def gain(weights: NDArray[np.float64]) -> list[float]:
        mine, theirs = ([loss(log.labels, scores, chosen, weights) for scores in each] for each in zip(*pairs, strict=True))
        return [100 * (a / b - 1) for a, b in zip(mine, theirs, strict=True)]

    users = len(set(log.users[chosen].tolist()))
    assert study.gain("semantic_id", RANDOM_HASH, part, chosen) == pytest.approx(by_hand(log.users, gain, users), rel=1e-6)


def test_the_gain_of_auc_is_scikit_learns_and_its_interval_that_of_a_bootstrap_by_hand(study: Study) -> None:
    log = Log(study, "frozen")
    chosen = log.items % 2 == 0
    pairs = list(zip(stored(study, "semantic_id", "frozen"), stored(study, RANDOM_HASH, "frozen"), strict=True))

    def gain(weights: NDArray[np.float64]) -> list[float]:
        mine, theirs = (
            [roc_auc_score(log.labels[chosen], scores[chosen], sample_weight=weights[chosen]) for scores in each]
            for each in zip(*pairs, strict=True)
        )
        return [100 * (a / b - 1) for a, b in zip(mine, theirs, strict=True)]

    expected = by_hand(log.users, gain, len(set(log.users.tolist())))
    assert study.auc_gain("semantic_id", RANDOM_HASH, "frozen", chosen) == pytest.approx(expected, rel=1e-6)


def loss(labels: NDArray[Any], scores: NDArray[Any], chosen: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    value: float = log_loss(labels[chosen], expit(scores[chosen].astype(float)), sample_weight=weights[chosen])
    return value


def by_hand(users: NDArray[np.int64], statistic: Any, degrees: int) -> tuple[float, float, float]:
    """Mean, and the 95% interval of the sum of two variances: over users drawn again, and over seeds."""
    known = sorted(set(users.tolist()))
    draws = np.random.default_rng(0).poisson(1.0, (DRAWS, len(known)))
    seeds = np.array(statistic(np.ones(len(users))))
    resampled = []
    for times in draws:
        of_user = dict(zip(known, times.tolist(), strict=True))
        resampled.append(np.mean(statistic(np.array([of_user[user] for user in users.tolist()], float))))
    a, b = np.var(resampled, ddof=1), np.var(seeds, ddof=1) / len(seeds)
    freedom = (a + b) ** 2 / (a**2 / (degrees - 1) + b**2 / (len(seeds) - 1))
    half = student_t.ppf(0.975, freedom) * np.sqrt(a + b)
    return seeds.mean(), seeds.mean() - half, seeds.mean() + half


@pytest.mark.parametrize("seed", range(20))
def test_weighted_auc_with_ties_is_scikit_learns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 60))
    scores = generator.integers(0, max(2, count // 3), count).astype(np.float32)
    labels = np.concatenate([[0, 1], generator.integers(0, 2, count - 2)]).astype(float)
    weights = generator.poisson(1.0, count).astype(float)
    weights[:2] += 1
    assert studies._Ranked(scores, labels).auc(weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)


def test_auc_without_one_of_the_labels_is_not_known(study: Study) -> None:
    assert np.isnan(studies._Ranked(np.arange(3, dtype=np.float32), np.ones(3)).auc(np.ones(3)))
    assert not study.auc_gain("semantic_id", RANDOM_HASH, "frozen", study.labels("frozen") == 1).is_known
    assert not study.gain("semantic_id", RANDOM_HASH, "frozen", np.zeros(ROWS - TRAINED, bool)).is_known


def test_losses_that_were_let_go_of_are_read_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["semantic_id", "individual", "no_item"]
    before = [study.gain(name, RANDOM_HASH, part) for name in names for part in PARTS]
    monkeypatch.setattr(studies, "KEPT", 1)
    fresh = Study(study.world, study.variants, study.seeds)
    assert [fresh.gain(name, RANDOM_HASH, part) for name in names for part in PARTS] == before
    assert len(fresh._known_losses) == 1


class Simulated(Study):
    """Two scorers of made-up clicks, whose users like them unequally and whose seeds differ."""

    def __init__(self, generator: np.random.Generator, users: int, per_user: int, seeds: int) -> None:
        rows = users * per_user
        user = np.repeat(np.arange(users), per_user)
        truth = 1.5 * generator.normal(size=rows)
        labels = (generator.random(rows) < expit(truth)).astype(float)
        skill = 0.4 * generator.normal(size=users)[user]  # of the variant: how much better or worse it knows a user
        drift = 0.15 * generator.normal(size=(seeds, 1))
        noise = generator.normal(size=(2, rows))
        self._scores = {"a": (truth + (0.8 + skill + drift) * noise[0]), "b": np.tile(truth + noise[1], (seeds, 1))}
        self.log, self._bootstraps = {"user_id": user, "label_click": labels}, {}

    _label = "label_click"

    def rows(self, part: Part) -> slice:
        return slice(None)

    def scores(self, name: str, part: Part) -> NDArray[np.float32]:
        return self._scores[name].astype(np.float32)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """The truth is that of so many users and seeds that none of them matters; the generator is seeded, so that the count is fixed."""
    generator, repetitions = np.random.default_rng(5), 100
    large = Simulated(generator, 20_000, 4, 20)
    truth = {"gain": _point(large, "gain"), "auc": _point(large, "auc")}
    hits = dict.fromkeys(truth, 0)
    for _ in range(repetitions):
        small = Simulated(generator, 50, 8, 3)
        for name, estimate in (("gain", small.gain("a", "b", "frozen")), ("auc", small.auc_gain("a", "b", "frozen"))):
            hits[name] += estimate.low <= truth[name] <= estimate.high
    assert all(90 <= count <= 99 for count in hits.values()), hits


def _point(study: Simulated, what: str) -> float:
    labels, (a, b) = study.log["label_click"], (study.scores(name, "frozen") for name in "ab")
    if what == "gain":
        return float(np.mean([100 * (log_loss(labels, expit(x)) / log_loss(labels, expit(y)) - 1) for x, y in zip(a, b, strict=True)]))
    return float(np.mean([100 * (roc_auc_score(labels, x) / roc_auc_score(labels, y) - 1) for x, y in zip(a, b, strict=True)]))


def test_an_interval_over_seeds_is_students() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        estimate = over_seeds(generator.normal(3.0, 2.0, 4))
        hits += estimate.low <= 3.0 <= estimate.high
    assert 930 <= hits <= 970
    assert over_seeds([1.0, 3.0]).high == pytest.approx(2.0 + 12.7062 * 1.0, abs=1e-3)
    assert over_seeds([1.5]).mean == 1.5
    assert not over_seeds([1.5]).is_known


def test_what_training_tells_beside_scores_is_read_by_seed(tmp_path: Path) -> None:
    probing = represented("probed", {"random_hash": {"kind": "random_hash", "rows": 55}})
    probing = Variant(probing.name, probing.settings, probes=("pipeline.reproduce.core:represented",))
    study = Study(toy_world(tmp_path), [probing], (0, 1))
    for task in study.tasks():
        put_scores(study, task.results, np.zeros(ROWS, np.float32), {"represented": {"value": np.array([task.config.train.seed, 7])}})
    assert [found["value"].tolist() for found in study.probed("probed", "represented")] == [[0, 7], [1, 7]]
    assert study.table_rows("probed") == 98
    assert study.seconds() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"train.global_batch": 2560},
            "80% of its 3,000 rows are to be trained on, in whole batches of 2560, and the others judged: that leaves none to train on",
        ),
        ({"train.global_batch": 250, "train.train_fraction": 1.0}, "100% of its 3,000 rows .* leaves none to judge"),
    ],
)
def test_too_few_rows_are_told_before_anything_is_trained(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=f"^toy: {told}$"):
        Study(toy_world(tmp_path, settings), [], (0,)).require_rows()


def test_variants_of_one_name_are_one_with_the_probes_of_all() -> None:
    first = Variant("a", {"model.rows": 5}, probes=("m:x",))
    second = Variant("a", {"model.rows": 5}, probes=("m:y", "m:x"))
    other = Variant("b")
    assert merged([first, other, second]) == {"a": Variant("a", {"model.rows": 5}, probes=("m:x", "m:y")), "b": other}


@pytest.mark.parametrize(
    "different",
    [Variant("a", {"model.rows": 6}), Variant("a", {"model.rows": 5}, Coding.of(levels=2)), Variant("a", {"model.rows": 5}, log="other")],
)
def test_two_trainings_of_one_name_are_refused(different: Variant) -> None:
    with pytest.raises(InputError, match="two different variants are called 'a'"):
        merged([Variant("a", {"model.rows": 5}), different])


# Where results lie.


def results_of(world: World, variant: Variant, seed: int = 0) -> str:
    (task,) = Study(world, [variant], (seed,)).tasks()
    return task.results.name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return toy_world(tmp_path_factory.mktemp("world"))


SEMANTIC_ID = represented("semantic_id", {"semantic_id": {"kind": "semantic_id"}})


@pytest.mark.parametrize(
    "settings",
    [
        {"model.rows": 60}, {"model.embedding_dim": 16}, {"model.history": "pma"}, {"train.seed": 5}, {"train.global_batch": 250},
        {"train.train_fraction": 0.7}, {"train.dense_learning_rate": 0.01}, {"train.id_dropout": 0.1}, {"train.store": "store_shuffled"},
        {"ingest.history_length": 3}, {"sharding.precision": "bf16"}, {"model.representations": {"semantic_id": {"kind": "random_hash"}}},
    ],
    ids=str,
)  # fmt: skip
def test_other_settings_have_other_results(world: World, settings: dict[str, Any]) -> None:
    (task,) = Study(world, [SEMANTIC_ID], (0,)).tasks()
    changed = Train(task.variant, with_overrides(task.config, settings), task.probes, task.folder)
    assert changed.results != task.results


def test_seeds_probes_and_the_code_behind_them_have_results_of_their_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    probing = [Variant(SEMANTIC_ID.name, SEMANTIC_ID.settings, probes=probes) for probes in ((), ("pipeline.reproduce.core:core",))]
    names = {results_of(world, variant, seed) for variant in probing for seed in (0, 1)}
    assert len(names) == 4
    monkeypatch.setattr(tasks, "TRAINING_CODE", ("features/schema.py",))
    assert results_of(world, probing[0]) not in names
    monkeypatch.undo()
    monkeypatch.setattr(tasks, "code_behind", lambda module: ("features/schema.py",))
    assert results_of(world, probing[1]) not in names
    assert results_of(world, probing[0]) in names


def test_other_contents_of_log_and_store_have_other_results_and_another_place_or_name_has_not(tmp_path: Path) -> None:
    variants = [
        SEMANTIC_ID,
        represented("hashed", {"hashed": {"kind": "random_hash"}}),
        represented("individual", {"own": {"kind": "individual"}}),
    ]
    world = toy_world(tmp_path / "here")
    before = {variant.name: results_of(world, variant) for variant in variants}
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    moved = World(
        "toy", with_overrides(world.config, {"name": "other", "ingest.raw": "/elsewhere", "evaluate.bootstrap": 7}), tmp_path / "there"
    )
    assert {variant.name: results_of(moved, variant) for variant in variants} == before
    assert results_of(moved, Variant("renamed", SEMANTIC_ID.settings)) == before["semantic_id"]
    write_toy_log(tmp_path / "other", seed=1)
    for name, changed in (("store", {"semantic_id"}), ("impressions", set(before))):
        shutil.rmtree(tmp_path / "there" / "toy" / "own" / name)
        shutil.copytree(tmp_path / "other" / name, tmp_path / "there" / "toy" / "own" / name)
        after = {variant.name: results_of(World("toy", world.config, tmp_path / "there"), variant) for variant in variants}
        assert {name for name in before if before[name] != after[name]} == changed


def test_a_derived_log_is_told_by_its_contents(tmp_path: Path) -> None:
    """Wherever it lies; and individual embeddings are numbered by the world's own log, whatever they are trained on."""
    world = toy_world(tmp_path)
    plain, on_copy = (Variant("any", SEMANTIC_ID.settings, log=log) for log in ("impressions", "copy"))
    shutil.copytree(world.log("impressions"), world.log("copy"))
    assert results_of(world, plain) == results_of(world, on_copy)
    on_copy = Variant("any", {"model.representations": {"own": {"kind": "individual"}}}, log="copy")
    before = results_of(world, on_copy)
    write_toy_log(tmp_path / "other", seed=1)
    shutil.rmtree(world.log("impressions"))
    shutil.copytree(tmp_path / "other" / "impressions", world.log("impressions"))
    assert results_of(world, on_copy) != before


def test_the_code_behind_a_probe_is_its_module_and_what_that_imports() -> None:
    files = code_behind("pipeline.reproduce.core")
    assert {"pipeline/reproduce/core.py", "pipeline/reproduce/world.py"} <= set(files)
    assert "pipeline/reproduce/page.py" not in files
    assert "pipeline/recipe.py" not in files  # of this package alone
    assert code_behind("json") == ()


def test_core_variants_are_at_equal_rows_but_for_a_row_per_item(world: World) -> None:
    sizes: dict[str, list[Any]] = {}
    for variant in [*core(world), target_only("target", {"kind": "semantic_id"}, world)]:
        config = world.run_config(variant, 0)
        sizes[variant.name] = [config.model.rows_of(name) for name in config.model.representations]
    rows = world.config.model.rows
    assert sizes.pop("individual") == [None]
    assert sizes.pop("target") == [rows, rows]
    assert all(sum(each) == rows for each in sizes.values())
