"""The researcher's side of a federation: submit studies, watch runs, fetch results."""
