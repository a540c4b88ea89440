"""What the workers run: the same functions for the Go program and for Python's MultiPool."""

import math
import time

import numpy as np

root = math.sqrt


def spin(x):
    """Ten microseconds of work."""
    end = time.perf_counter_ns() + 10_000
    while time.perf_counter_ns() < end:
        pass
    return x


def move(body):
    """A record in, a record out."""
    return {"name": body["name"], "mass": body["mass"], "position": [body["mass"] * x for x in body["position"]]}


def shift(point):
    """A record with an array in, one out."""
    return {"name": point["name"], "position": point["position"] + 1}


def turn(event):
    """Records in records in, the same out."""
    return {**event, "hits": [{"x": hit["y"], "y": hit["x"]} for hit in event["hits"]]}


def total(a):
    """A large array in, a number out."""
    return float(np.sum(a))


def double(a):
    """A large array in, one out."""
    return 2 * a
