"""Layers, recurrent networks, solvers and search, on arrays alone.

Nothing here knows of files, images or spelled words. Packing and search know that sequences consist of word indices, of
which 0 is START on input and END on output.
"""
