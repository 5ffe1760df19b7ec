"""The client's app: trains on a third of digits; the mod compresses its messages."""

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedjax_comp.flower import compressing_mod
from fedjax_comp.flower.client_mod import App
from fedjax_comp.flower.records import KEY, from_record, to_record

from . import task


def links(message: Message, context: Context, call_next: App) -> Message:
    """`compressing_mod` of the links that the run's configuration names."""
    config = context.run_config
    link = task.link_of(str(config["uplink"]), str(config["downlink"]))
    if link is None:
        return call_next(message, context)
    return compressing_mod(link)(message, context, call_next)


def misbehaves(message: Message, context: Context, call_next: App) -> Message:
    """For the test: what one node sends is damaged, or that of the round before."""
    reply = call_next(message, context)
    how = context.run_config["misbehave"]
    if how and context.node_config["partition-id"] == 0 and not reply.has_error():
        data = reply.content[KEY]["message"]
        kept = context.state.config_records.get("kept")
        context.state["kept"] = ConfigRecord({"message": data})
        if how == "replay" and kept is not None:
            data = kept["message"]
        elif how == "damage":
            data = data[:-1] + bytes([data[-1] ^ 1])
        reply.content[KEY]["message"] = data
    return reply


app = ClientApp(mods=[misbehaves, links])


@app.train()
def train(message: Message, context: Context) -> Message:
    params = from_record(message.content["arrays"])
    part, parts = (context.node_config[n] for n in ("partition-id", "num-partitions"))
    x, y = (array[int(part) :: int(parts)] for array in task.examples("train"))
    for start in range(0, len(y) - 9, 10):
        params = task.step(params, x[start : start + 10], y[start : start + 10])
    metrics = MetricRecord({"num-examples": len(y)})
    content = RecordDict({"arrays": to_record(params), "metrics": metrics})
    return Message(content=content, reply_to=message)
