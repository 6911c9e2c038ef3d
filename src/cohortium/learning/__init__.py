"""Training and evaluation at a site. The only room that imports torch, and only when used."""
