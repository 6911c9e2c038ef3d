"""What a SuperNode starts for every message: it returns the model plus one. No torch."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001
    """Add one."""
    model = {name: array.numpy() for name, array in message.content["arrays"].items()}
    content = {
        "arrays": ArrayRecord({name: Array(value + 1) for name, value in model.items()}),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)
