"""Actors without I/O, their journals, and the engines that carry out what they ask for."""
