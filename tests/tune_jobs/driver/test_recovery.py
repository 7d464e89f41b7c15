"""After an out-of-memory a trial gets more, and at last a whole card."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.scheduling.shares import UNITS, Share
from tune_jobs.driver.recovery import SHARE_CLASSES, larger_share, next_bytes

USABLE_BYTES = 23 * 2**30


@given(st.sampled_from(SHARE_CLASSES))
def test_a_share_grows_to_the_whole_card_in_a_few_steps(first: float) -> None:
    share: float | None = first
    shares = []
    while share is not None:
        shares.append(share)
        share = larger_share(share)
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    assert len(shares) <= 8


@given(st.sampled_from(SHARE_CLASSES))
def test_the_next_attempt_gets_more_bytes_than_the_last(share: float) -> None:
    assert next_bytes(share, USABLE_BYTES) > Share(units=round(share * UNITS)).cap_bytes(USABLE_BYTES)
