"""MIND (Microsoft News): each news shown is a row with its click label, from news.tsv and behaviors.tsv as published."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import hash_ids
from features.quarantine import Fault, Int64, Quarantine, is_empty, is_null, is_repeated, numbers
from features.schema import TIMESTAMP
from features.sources.log import EVENTS, SourceLog, impressions_of, impressions_schema_of, in_time_order, items_table, raw_file
from features.sources.text_files import read_delimited

FOLDERS = ("mind", "MINDsmall_train", "MINDlarge_train", "MINDsmall_dev", "MINDlarge_dev")
NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
BEHAVIORS = ("impression_id", "user_id", "time", "history", "shown")
SECOND = 1_000_000  # microseconds


def read(raw: Path, *, history_length: int, seed: int) -> SourceLog:
    """Read news.tsv and behaviors.tsv.

    A row of behaviors.tsv is a news shown; a line that cannot be used at all counts as one row. The published History has no
    timestamps: it is taken as the user's positives from before the log, in the published order (last is most recent), one second apart
    and ending one second before the log's first row. It is in histories, not in counts. Later clicks join it as they happen.

    Args:
        raw: the folder of the two files, or its parent with a folder 'mind' (or one named as the publisher's archive).
        history_length: T.
        seed: of the order of simultaneous rows.

    Raises:
        InputError: naming the file that is missing or cannot be read.
    """
    folder = raw_file(raw, FOLDERS, "behaviors.tsv").parent
    quarantine = Quarantine()
    items = _news(folder / "news.tsv", quarantine)
    sessions, lines = _sessions(folder / "behaviors.tsv", quarantine)
    events = in_time_order(_shown(sessions, lines, np.sort(numbers(items["item_id"])), quarantine), seed)
    metadata = {
        "source": "mind",
        "credit": "Wu et al. (2020), MIND: A Large-scale Dataset for News Recommendation, Microsoft Research licence",
        "positive": "a click",
        "negatives": None,
        "past_count": "impressions",
        "history": "the published history, which has no timestamps, is set before the log, one second apart in its order",
    }
    earlier = _earlier(sessions) if sessions.num_rows else None
    impressions = impressions_of(events, past_count="impressions", history_length=history_length, earlier=earlier)
    return SourceLog(items, impressions_schema_of(events.schema), impressions, quarantine, metadata)


def _news(path: Path, quarantine: Quarantine) -> pa.Table:
    news, lines = read_delimited(path, NEWS, quarantine, delimiter="\t", header=False, quotes=False)
    faults = [Fault(is_empty(news["news_id"]), "no news id"), Fault(is_repeated(news["news_id"]), "news id met before")]
    news = quarantine.keep(news, file=path.name, rows=lines, faults=faults)
    topic = pc.binary_join_element_wise(news["category"], news["subcategory"], ", ")
    texts = pc.binary_join_element_wise(news["title"], topic, news["abstract"], ". ")
    return items_table(hash_ids(news["news_id"]), original_ids=news["news_id"], titles=news["title"], texts=texts)


def _sessions(path: Path, quarantine: Quarantine) -> tuple[pa.Table, Int64]:
    """Usable lines of behaviors.tsv with their time, in time order, and their numbers in the file."""
    table, lines = read_delimited(path, BEHAVIORS, quarantine, delimiter="\t", header=False, quotes=False)
    times = pc.strptime(table["time"], format="%m/%d/%Y %I:%M:%S %p", unit="us", error_is_null=True).cast(TIMESTAMP)
    table = table.set_column(2, "time", times)
    no_time, no_user = is_null(table["time"]), is_empty(table["user_id"])
    quarantine.reject(path.name, lines[no_time], "time is not like 11/11/2019 9:05:58 AM")
    quarantine.reject(path.name, lines[no_user & ~no_time], "no user id")
    usable = np.flatnonzero(~(no_time | no_user))
    order = usable[np.argsort(numbers(table["time"])[usable], kind="stable")]
    return table.take(pa.array(order)), lines[order]


def _shown(sessions: pa.Table, lines: Int64, known_items: Int64, quarantine: Quarantine) -> pa.Table:
    """One event per news shown."""
    shown = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(sessions["shown"]))
    session = np.repeat(np.arange(len(shown)), pc.list_value_length(shown).to_numpy())
    parts = pc.extract_regex(pc.list_flatten(shown), r"^(?P<news>\S+)-(?P<click>[01])$")
    news = pc.fill_null(pc.struct_field(parts, "news"), "")
    click = pc.equal(pc.fill_null(pc.struct_field(parts, "click"), "0"), "1").to_numpy()
    item_ids = hash_ids(news)
    faults = [Fault(is_null(parts), "shown news is not NEWS-0 or NEWS-1"), Fault(~np.isin(item_ids, known_items), "unknown item")]
    index = pa.array(session)
    events = pa.table(
        [sessions["time"].take(index), hash_ids(sessions["user_id"].take(index)), item_ids, click.astype(np.int8)], schema=EVENTS
    )
    return quarantine.keep(events, file="behaviors.tsv", rows=lines[session], faults=faults)


def _earlier(sessions: pa.Table) -> pa.Table:
    """The published histories, each user's as of their first session, as positives before the log."""
    users = hash_ids(sessions["user_id"])
    first = np.sort(np.unique(users, return_index=True)[1])
    history = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(sessions["history"].take(pa.array(first))))
    # Splitting nothing gives one empty string.
    lengths = pc.list_value_length(history).to_numpy()
    news = pc.list_flatten(history)
    owner, last = np.repeat(users[first], lengths), np.repeat(np.cumsum(lengths), lengths)
    times = numbers(sessions["time"])[0] - (last - np.arange(len(news))) * SECOND
    events = pa.table([pa.array(times).cast(TIMESTAMP), owner, hash_ids(news), np.ones(len(news), np.int8)], schema=EVENTS)
    return events.filter(pc.not_equal(news, ""))
