"""The ranker's refusals."""

import pytest

from features.batch import BatchSchema
from features.errors import InputError
from models.config import RankerConfig
from models.ranker import Ranker


@pytest.mark.parametrize("name", ["items", "training", "a.b"])
def test_a_table_may_not_have_a_name_that_torch_keeps(name: str) -> None:
    schema = BatchSchema({name: 10}, (name,), (name,), {}, (), 2)
    config = RankerConfig.model_validate({"representations": {name: {"kind": "random_hash"}}})
    with pytest.raises(InputError, match=f"model.representations: '{name}' cannot be a table's name"):
        Ranker(schema, config)


def test_a_table_may_not_have_the_name_of_a_context_column() -> None:
    schema = BatchSchema({"context_country": 10}, ("context_country",), (), {"context_country": 50}, (), 2)
    config = RankerConfig.model_validate({"representations": {"context_country": {"kind": "random_hash", "history": False}}})
    with pytest.raises(InputError, match=r"model\.representations: 'context_country' is also the name of a context column"):
        Ranker(schema, config)
