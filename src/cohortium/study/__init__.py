"""What a consortium agrees on: the study, its bundle and digest, and its compilation to a plan."""
