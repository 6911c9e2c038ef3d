"""W4 as a Flower app; `flwr run` packs and sends this folder."""
