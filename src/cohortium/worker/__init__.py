"""Isolated, long-lived processes that run a study's code over a site's records."""
