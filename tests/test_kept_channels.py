"""Lists of channels in a checkpoint's provenance."""

import json

from elagage.kept_channels import kept_channels, with_kept_channels


def test_channels_are_read_as_they_were_written():
    kept = {"conv.weight": [0, 3, 8, 64], "linear.weight": [1]}
    provenance = json.loads(json.dumps(with_kept_channels({"scope": "channel"}, kept)))
    assert kept_channels(provenance) == kept
    assert provenance["scope"] == "channel"


def test_channels_that_are_removed_later_are_those_of_the_dense_network():
    once = with_kept_channels({}, {"a": [1, 3, 5, 7], "b": [0, 2]})
    twice = with_kept_channels(once, {"a": [0, 3], "c": [4]})
    assert kept_channels(twice) == {"a": [1, 7], "b": [0, 2], "c": [4]}


def test_what_lost_no_channels_says_nothing_of_them():
    assert with_kept_channels({"rate": 0.5}, {}) == {"rate": 0.5}
    assert kept_channels({"rate": 0.5}) == {}
