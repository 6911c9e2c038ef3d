"""What runs at Flower's clients; a module of its own, so that Ray's actors import it by name."""

import functools
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks import plain
from benchmarks.workloads import Arrays, SmallSites

add_one = ClientApp()
mlp = ClientApp()


@add_one.train()
def train_add_one(message: Message, context: Context) -> Message:  # noqa: ARG001
    """Train for W1 and W3: return the model plus one."""
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    return _reply(message, {name: value + 1 for name, value in model.items()}, 1)


@mlp.train()
def train_mlp(message: Message, context: Context) -> Message:
    """Train for W2, with the plain loop's own training."""
    config: Any = message.content["config"]
    workload = SmallSites(rows=config["rows"], ragged=config["ragged"])
    site = int(context.node_config["partition-id"])
    x, y = load_data(workload, site)
    model = plain.mlp(workload)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    orders = workload.shuffled(site, config["server-round"], len(y))
    plain.train(model, (x, y), orders, lr=workload.lr, batch=workload.batch)
    return _reply(message, {k: v.numpy() for k, v in model.state_dict().items()}, len(y))


@functools.cache
def load_data(workload: SmallSites, site: int) -> plain.Site:
    """Return a site's rows; every actor generates them once, and runs on one thread."""
    torch.set_num_threads(1)
    return plain.tensors(workload.site(site))


def _reply(message: Message, model: Arrays, rows: int) -> Message:
    content = {
        "arrays": ArrayRecord({name: Array(value) for name, value in model.items()}),
        "metrics": MetricRecord({"num-examples": rows}),
    }
    return Message(content=RecordDict(content), reply_to=message)
