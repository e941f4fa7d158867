"""What a name claims of its weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdl.resolver.formats import _CLAIMS, claimed_format


@given(claim=st.sampled_from([pattern for pattern, _ in _CLAIMS]), data=st.data())
def test_every_claim_is_found_by_the_search_before_it(claim: str, data: st.DataObject) -> None:
    assert claimed_format(data.draw(st.from_regex(claim, fullmatch=True))) is not None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", None),
        ("unsloth/Llama-3.1-8B-unsloth-bnb-4bit", "bnb-4bit"),
        ("Maker/Model-int8", "8bit"),
        ("Maker/int8-lessons", None),
        ("Maker/Model-AWQ", "awq"),
        ("mlx-community/Model-4bit", "other"),
    ],
)
def test_a_claim_is_read_off_a_name(name: str, found: str | None) -> None:
    assert claimed_format(name) == found
