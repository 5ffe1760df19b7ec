"""Checks of a data set, before anything is computed from it.

A program on the device cannot raise: there, a label of -1 is read as the last class and
a label of `num_classes` gives NaN. So arrays are checked once, on the host, where they
enter: from a file (`load`), from a user (`federate`, `federated_data`) or for a stream
(`example_data`).
"""

import math

import jax
import numpy as np
from jax import dtypes

from fedjax_comp import checks
from fedjax_comp.base import Examples
from fedjax_comp.data.sources.contract import Dataset, InvalidData


def check_dataset(dataset: Dataset) -> None:
    """Refuses a data set that is not what `Dataset` says.

    Labels are integers in `[0, num_classes)`, one an example (`[N]`) or one a token
    (`[N, T]`). With `num_classes=0` they are floating numbers of any shape, for a task
    that regresses on them.

    Args:
      dataset: arrays of NumPy or JAX.

    Raises:
      InvalidData: in one line, with the value and a way out, when the training or the
        test set is empty, lengths, shapes or dtypes disagree, a number is not finite
        (or does not fit the dtype that it has on the device), a label is not in
        `[0, num_classes)` or one-hot, groups are not one integer an example, or
        `scale` or `ignore_label` is not what `Dataset` says.
      ValueError: when `num_classes` or `ignore_label` is not an integer of at least 0.

    >>> x, y = np.zeros((3, 2), np.float32), np.array([0, 1, -1])
    >>> one = Examples(x, y)
    >>> check_dataset(Dataset("mine", one, one, None, None, 2, 1.0))
    Traceback (most recent call last):
    ...
    fedjax_comp...InvalidData: Expected the training labels of mine ... got -1 in ...
    """
    if not isinstance(dataset, Dataset):
        raise InvalidData(
            f"Expected a Dataset, not {str(dataset)[:40]!r}: load(name) makes one of a "
            "name, and Dataset(...) of arrays."
        )
    name = dataset.name
    classes = checks.integer("num_classes", dataset.num_classes, minimum=0)
    if not math.isfinite(dataset.scale) or dataset.scale == 0:
        raise InvalidData(
            f"Expected scale={dataset.scale} of {name} finite and not zero; 1 leaves "
            "the inputs as they are."
        )
    if dataset.ignore_label is not None:
        ignored = checks.integer("ignore_label", dataset.ignore_label, minimum=0)
        if ignored >= classes:
            raise InvalidData(
                f"Expected ignore_label={ignored} of {name} in [0, {classes}): padding "
                "is one of the labels; count it in num_classes."
            )
    for split, examples, groups in (
        ("training", dataset.train, dataset.train_groups),
        ("test", dataset.test, dataset.test_groups),
    ):
        _check_examples(split, name, examples, classes)
        if groups is not None:
            _check_groups(split, name, groups, len(examples.y))
    _check_alike(name, dataset.train, dataset.test)


def _check_examples(split: str, name: str, examples: Examples, classes: int) -> None:
    for what, array in (("inputs", examples.x), ("labels", examples.y)):
        _check_array(f"{split} {what} of {name}", array)
    x, y = examples
    if len(x) != len(y):
        raise InvalidData(
            f"Expected as many inputs as labels among the {split} examples of "
            f"{name}, got {len(x)} and {len(y)}."
        )
    if len(y) == 0:
        raise InvalidData(
            f"Expected {split} examples in {name}, got none: keep some of the others "
            "for it."
        )
    _check_numbers(f"{split} inputs of {name}", np.asarray(x))
    labels = np.asarray(y)
    if classes == 0:
        _check_targets(f"{split} labels of {name}", labels)
    else:
        _check_labels(f"{split} labels of {name}", labels, classes)


def _check_array(what: str, array: object) -> None:
    if not isinstance(array, np.ndarray | jax.Array):
        raise InvalidData(
            f"Expected the {what} as one array, got {type(array).__name__}; use "
            "np.asarray(...)."
        )
    if array.ndim == 0 or 0 in array.shape[1:]:
        raise InvalidData(
            f"Expected the {what} as one row an example, [N, ...] without a size of 0, "
            f"got the shape {list(array.shape)}."
        )
    if not (_is_integer(array.dtype) or _is_floating(array.dtype)) and (
        array.dtype != np.bool_
    ):
        raise InvalidData(
            f"Expected the {what} as numbers, got the dtype {array.dtype}; code words "
            "and categories as numbers first."
        )


def _check_numbers(what: str, values: np.ndarray) -> None:
    """What is finite and stays what it is in the dtype that the device has it in."""
    stored = dtypes.canonicalize_dtype(values.dtype)
    if _is_floating(values.dtype):
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(values.astype(stored, copy=False))
        bound = f"finite in {stored}"
        way_out = "leave such examples out or fill them in"
    elif stored == values.dtype:
        return
    else:
        limits = np.iinfo(stored)
        wrong = (values < limits.min) | (values > limits.max)
        bound = f"in [{limits.min}, {limits.max}], the range of {stored}"
        way_out = "number them from 0, or use floats"
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise InvalidData(
            f"Expected the {what} {bound}, got {values[place]} in example {place[0]} "
            f"({int(wrong.sum())} of {wrong.size} numbers are not): {way_out}."
        )


def _check_labels(what: str, labels: np.ndarray, classes: int) -> None:
    if labels.ndim == 2 and labels.shape[1] == classes and _is_one_hot(labels):
        raise InvalidData(
            f"Expected the {what} as numbers of classes, got one-hot rows "
            f"{labels.dtype}{list(labels.shape)}; use y.argmax(axis=1)."
        )
    if not _is_integer(labels.dtype):
        raise InvalidData(
            f"Expected the {what} as integers in [0, {classes}), got {labels.dtype}; "
            "use y.astype(np.int32), or num_classes=0 for numbers to regress on."
        )
    if labels.ndim > 2:
        raise InvalidData(
            f"Expected the {what} as one label an example [N] or one a token [N, T], "
            f"got the shape {list(labels.shape)}; use y.reshape(len(y), -1)."
        )
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise InvalidData(
            f"Expected the {what} in [0, {classes}), got {labels[place]} in example "
            f"{place[0]}: number the classes from 0, and padding as one of them "
            "(ignore_label)."
        )


def _check_targets(what: str, targets: np.ndarray) -> None:
    if not _is_floating(targets.dtype):
        raise InvalidData(
            f"Expected the {what} as floating numbers with num_classes=0, got "
            f"{targets.dtype}; say how many classes there are, or use "
            "y.astype(np.float32)."
        )
    _check_numbers(what, targets)


def _check_groups(split: str, name: str, groups: object, count: int) -> None:
    array = np.asarray(groups)
    if array.shape != (count,) or not _is_integer(array.dtype):
        raise InvalidData(
            f"Expected the {split} groups of {name} as one integer an example, [{count}"
            f"], got {array.dtype}{list(array.shape)}; use "
            "np.unique(groups, return_inverse=True)[1]."
        )


def _check_alike(name: str, train: Examples, test: Examples) -> None:
    for what, ours, theirs in (
        ("inputs", train.x, test.x),
        ("labels", train.y, test.y),
    ):
        if _kind(ours) != _kind(theirs):
            raise InvalidData(
                f"Expected training and test {what} of {name} of one shape and dtype, "
                f"got {ours.dtype}{list(ours.shape)} and "
                f"{theirs.dtype}{list(theirs.shape)}."
            )


def _kind(array: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    return array.shape[1:], dtypes.canonicalize_dtype(array.dtype)


def _is_one_hot(labels: np.ndarray) -> bool:
    values = labels.astype(np.float64)
    zero_or_one = (values == 0) | (values == 1)
    return bool(zero_or_one.all() and (values.sum(axis=1) == 1).all())


def _is_integer(dtype: np.dtype) -> bool:
    return bool(jax.numpy.issubdtype(dtype, np.integer))


def _is_floating(dtype: np.dtype) -> bool:
    # As JAX sees it: bfloat16 is a floating dtype there, and a void one in NumPy.
    return bool(jax.numpy.issubdtype(dtype, np.floating))
