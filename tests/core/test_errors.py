"""Errors say what, where and what next, also after a trip through another process."""

import pickle

from raylm.core.errors import DataError, RaylmError


def test_says_what_where_and_next():
    error = DataError("no rows", where="jobs/x.toml:3 stages.a", next="name a folder")
    assert str(error) == "jobs/x.toml:3 stages.a: no rows\n  next: name a folder"
    assert isinstance(error, RaylmError)


def test_travels_between_processes():
    error = pickle.loads(pickle.dumps(DataError("no rows", where="here", next="there")))
    assert isinstance(error, DataError)
    assert (error.what, error.where, error.next) == ("no rows", "here", "there")
