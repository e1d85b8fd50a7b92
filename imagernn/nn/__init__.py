"""Layers, recurrent networks, solvers and search, on arrays alone: nothing here knows of files, words or images."""
