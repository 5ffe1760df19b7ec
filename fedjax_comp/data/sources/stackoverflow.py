"""Stack Overflow by user: predict the next word of questions and answers.

A client is a user. Sentences are cut to 20 words; an input is a sentence with a mark of
its beginning, its targets are the words and a mark of its end. Symbols, 10,004 of them:
0 is padding (never scored), 1 to 10,000 are words by falling frequency, 10,001 and
10,002 begin and end a sentence, 10,003 stands for any other word. These are the sizes
of Reddi et al. 2021, "Adaptive Federated Optimization" (arXiv 2003.00295), section 5.

The raw file `stackoverflow_words.npz` is to be packed from the data of TensorFlow
Federated, and holds `tokens` uint16 `[N, 21]` (begin, words, end, padding; a sentence
of 20 words has no end), `user` integers `[N]` and `is_test` integers `[N]`. This reader
was tried only on files written for the purpose, never on the data themselves.
"""

from pathlib import Path

import numpy as np

from fedjax_comp.data.sources.contract import Source, Split, Splits
from fedjax_comp.data.sources.npz import read_npz

PADDING = 0
VOCABULARY_SIZE = 10_004
LENGTH = 20

_FILE = "stackoverflow_words.npz"


def read_raw(folder: Path) -> Splits:
    """Reads `stackoverflow_words.npz`; the groups are the users.

    Raises:
      ValueError: if the file is damaged or an array has another shape or type.
    """
    path = folder / _FILE
    tokens, user, flag = read_npz(path, "tokens", "user", "is_test")
    count = len(tokens) if tokens.ndim else 0
    if (
        tokens.dtype != np.uint16
        or tokens.shape != (count, LENGTH + 1)
        or any(x.shape != (count,) or x.dtype.kind not in "biu" for x in (user, flag))
    ):
        found = ", ".join(f"{x.dtype}{list(x.shape)}" for x in (tokens, user, flag))
        raise ValueError(
            f"Expected tokens uint16[N, {LENGTH + 1}] and N users and is_test, all "
            f"integers, in {path}, got {found}."
        )
    if count and tokens.max() >= VOCABULARY_SIZE:
        raise ValueError(
            f"Expected tokens below {VOCABULARY_SIZE} in {path}, got {tokens.max()}."
        )
    _, group = np.unique(user, return_inverse=True)
    is_test = flag.astype(bool)
    targets = tokens[:, 1:].astype(np.int32)
    inputs = np.where(targets == PADDING, np.uint16(PADDING), tokens[:, :-1])
    return {
        name: Split(inputs[rows], targets[rows], group[rows].astype(np.int32))
        for name, rows in (("train", ~is_test), ("test", is_test))
    }


SOURCE = Source(
    name="stackoverflow",
    num_classes=VOCABULARY_SIZE,
    scale=1.0,
    description="Stack Overflow by user, next word. CC BY-SA 3.0; arXiv 2003.00295.",
    raw_files=(_FILE,),
    read_raw=read_raw,
    how_to_get=(
        f"pack TensorFlow Federated's stackoverflow into {_FILE}, as described in "
        "fedjax_comp/data/sources/stackoverflow.py"
    ),
    ignore_label=PADDING,
)
