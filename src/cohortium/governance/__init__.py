"""What may leave a site and what counts as a good model: the gate and the acceptance criteria."""
