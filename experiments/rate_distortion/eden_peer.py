"""Sends recorded updates through EDEN's published code; run by a Python with torch.

    PYTHON eden_peer.py FOLDER UPDATES.npz NUM_CLIENTS < settings.json > results.jsonl

`FOLDER` is `torch/` of an unchanged checkout of
`amitport/EDEN-Distributed-Mean-Estimation` (Vargaftik et al., "EDEN", 2022). This
package is not imported. `UPDATES.npz` has one array `[C, ...]` for each leaf; all
leaves are sent as one vector, as in the paper. Standard input is a JSON list of
settings (`bits`); standard output gets a line of JSON for each.

EDEN's code returns the indices of quantization cells, 64 bits each, and writes no
message. Its bytes are counted here as those indices packed at their width, and a
float32 scale; seeds count as shared, as everywhere in this package. It pads a vector to
a power of two, and the padding is sent, too.
"""

import json
import math
import sys
import time
from typing import Any

import numpy as np

SCALE_BYTES = 4

Setting = dict[str, Any]


def main() -> None:
    """Reads the settings, encodes, decodes and writes a line a setting."""
    folder, path, num_clients = sys.argv[1], sys.argv[2], int(sys.argv[3])
    sys.path.insert(0, folder)
    settings = json.load(sys.stdin)
    with np.load(path) as kept:
        stacked = [np.asarray(kept[name], np.float32) for name in kept.files]
    clients = [
        np.concatenate([leaf[c].ravel() for leaf in stacked])
        for c in range(num_clients)
    ]
    for setting in settings:
        print(json.dumps({**setting, **measure(clients, setting["bits"])}), flush=True)


def measure(clients: list[np.ndarray], bits: float) -> Setting:
    """Errors, bytes and times at one rate, of each client and of their mean."""
    import torch
    from eden import eden_builder

    code = eden_builder(bits=bits)
    rows, powers = [], []
    cohort_error = np.zeros(clients[0].size)
    for client in clients:
        started = time.perf_counter()
        cells, context = code.forward(torch.from_numpy(client))
        encoded = time.perf_counter()
        decoded, _ = code.backward(cells, context)
        finished = time.perf_counter()
        exact = client.astype(np.float64)
        sent = decoded.numpy().astype(np.float64)
        power, product, square = exact @ exact, exact @ sent, sent @ sent
        error = sent - exact
        cohort_error += error
        powers.append(power)
        num_bytes = packed(cells.numpy(), math.ceil(bits)).nbytes + SCALE_BYTES
        rows.append(
            {
                "bytes": num_bytes,
                "rate_bits": 8 * num_bytes / exact.size,
                "vnmse": error @ error / power,
                "vnmse_rescaled": power * square / product**2 - 1 if product else None,
                "encode_seconds": encoded - started,
                "decode_seconds": finished - encoded,
            }
        )
    nmse = cohort_error @ cohort_error / len(clients) ** 2 / np.mean(powers)
    return {"n": int(clients[0].size), "nmse": float(nmse), "clients": rows}


def packed(cells: np.ndarray, width: int) -> np.ndarray:
    """Whole numbers below `2**width`, in `width` bits each, as uint8."""
    planes = cells[:, None] >> np.arange(width) & 1
    return np.packbits(planes.astype(bool))


if __name__ == "__main__":
    main()
