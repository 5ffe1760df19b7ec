"""The server's app: Flower's FedAvg with compressed messages, and their totals."""

import json
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedjax_comp.flower import compressed
from fedjax_comp.flower.records import from_record, to_record

from . import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    link = task.link_of(str(config["uplink"]), str(config["downlink"]))
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    if link is not None:
        strategy = compressed(strategy, link)
    accuracy: list[float] = []

    def evaluate(round_number: int, arrays: ArrayRecord) -> MetricRecord:
        x, y = task.examples("test")
        right = task.logits(from_record(arrays), x).argmax(-1) == y
        accuracy.append(float(right.mean()))
        return MetricRecord({"accuracy": accuracy[-1]})

    strategy.start(
        grid=grid,
        initial_arrays=to_record(task.init()),
        num_rounds=int(config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    results = {
        "accuracy": accuracy,
        "sent": [one._asdict() for one in getattr(strategy, "sent", [])],
        "refused": [one._asdict() for one in getattr(strategy, "refused", [])],
    }
    Path(str(config["results"])).write_text(json.dumps(results), encoding="utf-8")
