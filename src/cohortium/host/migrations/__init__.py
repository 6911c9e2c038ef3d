"""The revisions of the journals' tables; every service that carries parties has them."""
