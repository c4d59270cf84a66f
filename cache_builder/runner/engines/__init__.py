"""Engines: who makes the units of a run. The default is this process, which shares them by claims.

engine.py      the contract of an engine, and which one is in use
local.py       this process: dynamic shares by claims, or an exact part
ray.py         the driver of a Ray cluster: assigns units, follows nodes that come and go
ray_actor.py   the worker on a node of the cluster, and how it runs a maker
ray_pool.py    actors: where they can be placed, begun and lost
ray_link.py    connect to a cluster, or start one here
"""
