"""The private name by which the tracer tells storages apart keeps its meaning in this version of torch."""

import torch

from cluster.estimator.operation_trace import storage_key


def test_views_share_a_key_and_storages_do_not_also_without_memory() -> None:
    for device in ("cpu", "meta"):
        one, other = torch.zeros(4, 4, device=device), torch.zeros(4, 4, device=device)
        keys = [storage_key(tensor.untyped_storage()) for tensor in (one, one.view(16), one[1:], other)]
        assert keys[0] == keys[1] == keys[2]
        assert keys[3] != keys[0]


def test_there_is_no_public_number_for_it_on_the_meta_device() -> None:
    one, other = torch.zeros(4, device="meta"), torch.zeros(4, device="meta")
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() == 0
