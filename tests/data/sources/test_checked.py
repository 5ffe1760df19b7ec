"""Arrays of users: each kind of mistake is told in one line where the data enters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp.base import Examples
from fedjax_comp.data import Dataset, federate, federated_data, iid
from fedjax_comp.data.streams import example_data

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 2, 2)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)
ONE_HOT = np.eye(3, dtype=np.int32)[Y]


def mine(x=X, y=Y, **fields):
    """The same examples for both splits, so that one change is one mistake."""
    both = Examples(x, y)
    given = {
        "name": "mine",
        "train": both,
        "test": both,
        "train_groups": None,
        "test_groups": None,
        "num_classes": 3,
        "scale": 1.0,
    }
    return Dataset(**(given | fields))


def with_value(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


MISTAKES = {
    "-1": (
        mine(y=with_value(Y, 4, -1)),
        r"labels of mine in \[0, 3\), got -1 in .* 4",
    ),
    "L": (mine(y=with_value(Y, 5, 3)), r"in \[0, 3\), got 3 in example 5: .*from 0"),
    "token": (
        mine(y=with_value(np.zeros((6, 4), np.int8), (2, 1), 100)),
        r"got 100 in example 2: .*ignore_label",
    ),
    "one-hot": (mine(y=ONE_HOT), r"one-hot rows int32\[6, 3\]; use y.argmax\(axis=1\)"),
    "float one-hot": (mine(y=ONE_HOT.astype(np.float32)), r"one-hot .* y.argmax"),
    "bool one-hot": (mine(y=ONE_HOT > 0), r"one-hot .* y.argmax"),
    "float": (mine(y=Y.astype(np.float32)), r"integers in \[0, 3\), got float32; use"),
    "bool": (mine(y=Y > 0), "got bool; use y.astype"),
    "rank 3": (mine(y=Y.reshape(6, 1, 1)), r"\[N, T\], got the shape \[6, 1, 1\]"),
    "rank 0": (mine(y=np.array(1)), r"got the shape \[\]"),
    "strings": (mine(y=np.array(list("abcabc"))), "numbers, got the dtype <U1; code"),
    "objects": (mine(x=np.array([None] * 6)), "inputs .* got the dtype object"),
    "dates": (mine(x=np.zeros(6, "datetime64[s]")), r"got the dtype datetime64\[s\]"),
    "complex": (mine(x=np.zeros((6, 2), complex)), "got the dtype complex128"),
    "list": (mine(y=Y.tolist()), r"one array, got list; use np.asarray"),
    "tree": (mine(x={"a": X}), "one array, got dict"),
    "no columns": (mine(x=np.zeros((6, 0))), r"without a size of 0, got .* \[6, 0\]"),
    "nan": (
        mine(x=with_value(X, (3, 1, 0), np.nan)),
        r"got nan in .* 3 \(1 of 24",
    ),
    "inf": (mine(x=with_value(X, (0, 0, 0), -np.inf)), "got -inf in example 0"),
    "bfloat16": (
        mine(x=with_value(X.astype(jnp.bfloat16), (1, 0, 0), np.inf)),
        "finite in bfloat16, got inf in example 1",
    ),
    "float64": (
        mine(x=with_value(X.astype(np.float64), (2, 0, 0), 1e300)),
        r"finite in float32, got 1e\+300 in example 2",
    ),
    "int64": (
        mine(x=with_value(np.zeros((6, 2), np.int64), (1, 1), 2**40)),
        rf"range of int32, got {2**40} in example 1",
    ),
    "uint64": (mine(x=np.full((6, 2), 2**33, np.uint64)), "range of uint32, got"),
    "empty test": (
        mine(test=Examples(X[:0], Y[:0])),
        "test examples in mine, got",
    ),
    "empty": (
        mine(train=Examples(X[:0], Y[:0])),
        "training .* in mine, got none",
    ),
    "lengths": (mine(test=Examples(X[:5], Y)), "test examples of mine, got 5 and 6"),
    "shapes": (
        mine(test=Examples(X[:, :1], Y)),
        r"inputs of mine of one shape and dtype, .*\[6, 2, 2\] and .*\[6, 1, 2\]",
    ),
    "dtypes": (mine(test=Examples(X.astype(np.uint8), Y)), r"float32.* and uint8"),
    "label ranks": (
        mine(test=Examples(X, Y[:, None].repeat(2, 1))),
        r"labels of mine of one shape .* int32\[6\] and int32\[6, 2\]",
    ),
    "groups": (mine(train_groups=Y[:4]), r"training groups .* \[6\], got int32\[4\]"),
    "named groups": (mine(test_groups=np.array(list("abcabc"))), "test groups .*<U1"),
    "no classes": (
        mine(num_classes=0),
        "floating .*=0, got int32",
    ),
    "fewer than none": (mine(num_classes=-1), "num_classes=-1"),
    "half a class": (mine(num_classes=2.5), "num_classes=2.5, an integer"),
    "scale": (mine(scale=float("nan")), "scale=nan of mine finite"),
    "padding": (mine(ignore_label=-100), "ignore_label=-100"),
    "padding beyond": (mine(ignore_label=3), r"ignore_label=3 of mine in \[0, 3\)"),
    "nan target": (
        mine(y=with_value(Y / 2, 1, np.nan), num_classes=0),
        "labels of mine finite in float32, got nan in example 1",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize(
    "enter",
    [
        lambda dataset: federated_data(dataset, [[0, 1], [2]]),
        lambda dataset: federate(dataset, iid(), num_clients=2, seed=0),
        lambda dataset: example_data(dataset, drifts=np.zeros(0), seed=0),
    ],
    ids=["federated_data", "federate", "example_data"],
)
def test_each_mistake_is_told_in_one_line(name, enter):
    dataset, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as error:
        enter(dataset)
    assert "\n" not in str(error.value)


GOOD = {
    "labels": mine(),
    "jax arrays": mine(x=jnp.asarray(X), y=jnp.asarray(Y)),
    "long labels": mine(y=Y.astype(np.int64)),
    "small labels": mine(y=Y.astype(np.uint8)),
    "tokens": mine(x=np.zeros((6, 3), np.uint8), y=np.zeros((6, 3), np.int32)),
    "padded tokens": mine(y=ONE_HOT * 2, ignore_label=0),
    "flags": mine(x=X > 0),
    "half": mine(x=X.astype(np.float16)),
    "brain": mine(x=X.astype(jnp.bfloat16)),
    "double": mine(x=X.astype(np.float64)),
    "long inputs": mine(x=np.full((6, 2), -(2**31), np.int64)),
    "one number": mine(x=X[:, 0, 0]),
    "regression": mine(y=X[:, 0, 0], num_classes=0),
    "regression on rows": mine(y=X, num_classes=0),
    "groups": mine(train_groups=Y, test_groups=Y),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_good_arrives_as_it_is(name):
    dataset = GOOD[name]
    data = federate(dataset, iid(), num_clients=2, seed=0)
    for stored, given in (
        (data.examples.x, dataset.train.x),
        (data.examples.y, dataset.train.y),
        (data.test.y, dataset.test.y),
    ):
        assert stored.dtype == jax.dtypes.canonicalize_dtype(given.dtype)
        np.testing.assert_array_equal(
            np.asarray(stored, np.float64), np.asarray(given, stored.dtype)
        )


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ([[0], [0.7]], r"index list of client 1, got float64\[1\]"),
        ([[True, False]], r"client 0, got bool\[2\]; np.flatnonzero"),
        ([["0"]], "got <U1"),
        ([[[0, 1]]], r"got int64\[1, 2\]"),
        ([np.array([2**32])], f"index={2**32} of client 0"),
    ],
)
def test_indices_are_integers(clients, message):
    with pytest.raises(ValueError, match=message):
        federated_data(mine(), clients)
