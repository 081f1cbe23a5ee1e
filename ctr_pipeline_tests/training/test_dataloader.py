import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.training.dataloader import BatchLoader, Shard, batch_bounds, batches_per_epoch, epoch_order, gather


@given(st.integers(0, 200), st.integers(1, 5))
def test_the_shards_of_a_batch_are_all_of_it(rows: int, world: int) -> None:
    everything = np.arange(rows)
    parts = [Shard(rank=rank, world=world).of(everything) for rank in range(world)]
    assert sorted(np.concatenate(parts).tolist()) == everything.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    ends = [Shard(rank=rank, world=world).interval(rows) for rank in range(world)]
    assert [row for first, end in ends for row in range(first, end)] == everything.tolist()


def test_order_depends_on_seed_and_epoch_only() -> None:
    assert (epoch_order(500, 1, 2) == epoch_order(500, 1, 2)).all()
    assert (epoch_order(500, 1, 2) != epoch_order(500, 1, 3)).any()
    assert (epoch_order(500, 1, 2) != epoch_order(500, 2, 2)).any()
    assert sorted(epoch_order(500, 1, 2)) == list(range(500))


def test_an_epoch_shows_every_row_once(make_rows) -> None:
    split = make_rows(105, 1)
    with BatchLoader(split, 20, Shard(), seed=3, epoch=0, first=0) as batches:
        seen = list(batches)
    assert [len(batch.rows) for batch in seen] == [17, 18] * 3
    assert sorted(row for batch in seen for row in batch.rows.tolist()) == list(range(105))
    for batch in seen:
        rows = batch.rows.numpy()
        np.testing.assert_array_equal(batch.numeric.numpy(), split.numeric[rows])
        np.testing.assert_array_equal(batch.ids.numpy(), split.ids[rows])
        np.testing.assert_array_equal(batch.labels.numpy(), split.labels[rows])
        np.testing.assert_array_equal(batch.weights.numpy(), split.weights[rows])


@given(st.integers(1, 500), st.integers(1, 60))
def test_batches_are_of_equal_size(rows: int, batch_size: int) -> None:
    bounds = [batch_bounds(rows, batch_size, batch) for batch in range(batches_per_epoch(rows, batch_size))]
    assert [row for start, end in bounds for row in range(start, end)] == list(range(rows))
    sizes = [end - start for start, end in bounds]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_a_later_start_continues_the_same_order(make_rows) -> None:
    split = make_rows(105, 1)
    with BatchLoader(split, 20, Shard(), seed=3, epoch=4, first=0) as batches:
        whole = [batch.rows.tolist() for batch in batches]
    with BatchLoader(split, 20, Shard(), seed=3, epoch=4, first=2) as batches:
        assert [batch.rows.tolist() for batch in batches] == whole[2:]


def test_leaving_early_ends_the_thread(make_rows) -> None:
    reader = BatchLoader(make_rows(500, 1), 5, Shard(), seed=3, epoch=0, first=0)
    with reader as batches:
        next(batches)
    assert not reader._thread.is_alive()


def test_ids_survive_beyond_single_precision(make_rows) -> None:
    split = make_rows(3, 1)
    split.ids[0, 0] = 16_777_217
    assert int(gather(split, np.arange(3)).ids[0, 0]) == 16_777_217


def test_a_reader_that_fails_says_so(make_rows) -> None:
    split = make_rows(10, 1)
    object.__setattr__(split, "numeric", split.numeric[:5])
    with pytest.raises(IndexError), BatchLoader(split, 10, Shard(), seed=0, epoch=0, first=0) as batches:
        list(batches)
