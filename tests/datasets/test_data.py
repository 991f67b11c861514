from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.datasets.data import Data, Split, gather_rows, take


def csr(dense: torch.Tensor, index: torch.dtype) -> torch.Tensor:
    row, col = dense.nonzero(as_tuple=True)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), (dense != 0).sum(1).cumsum(0)])
    return torch.sparse_csr_tensor(crow.to(index), col.to(index), dense[row, col], dense.shape, check_invariants=True)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), d=st.integers(1, 8), picks=st.lists(st.integers(0, 11)))
def test_take_of_a_sparse_matrix_is_take_of_the_dense_one(index: torch.dtype, seed: int, n: int, d: int,
                                                          picks: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(n, d, generator=generator) * (torch.rand(n, d, generator=generator) < 0.3)  # has empty rows
    indices = torch.tensor([pick % n for pick in picks], dtype=torch.int64)
    sparse = csr(dense, index)
    assert torch.equal(take(sparse, indices), dense[indices])
    assert torch.equal(take(sparse, slice(1, n)), dense[1:n])
    crow, col, value = gather_rows(sparse, indices)
    gathered = torch.sparse_csr_tensor(crow, col.long(), value, (len(indices), d), check_invariants=True)
    assert torch.equal(gathered.to_dense(), dense[indices])


def test_take_of_dense_images() -> None:
    x = torch.arange(24.0).view(3, 2, 2, 2)
    assert torch.equal(take(x, torch.tensor([2, 0, 2])), torch.stack([x[2], x[0], x[2]]))
    assert take(x, slice(1, 3)).data_ptr() == x[1].data_ptr()  # a view: whole-batch evaluation copies nothing


def test_sizes() -> None:
    split = Split(torch.zeros(5, 3), torch.zeros(5))
    assert len(split) == 5
    assert Data({"train": split}, "regression", (), (3,)).n_classes is None
    assert Data({"train": split}, "classification", (-1, 1), (3,)).n_classes == 2
