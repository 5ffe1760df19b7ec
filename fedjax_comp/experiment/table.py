"""Tables as CSV files."""

import csv
import io
from collections.abc import Sequence

from fedjax_comp.run_directory import Json


def to_csv(columns: Sequence[str], rows: Sequence[Json]) -> str:
    """Rows as CSV; numbers to six digits, what is not known left empty.

    >>> to_csv(("n", "bias"), [{"n": 3, "bias": 1 / 3}]).split()
    ['n,bias', '3,0.333333']
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row[name] for name in columns]
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])
    return text.getvalue()
