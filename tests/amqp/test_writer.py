"""Which way of writing is taken."""

from bridge.amqp import writer


def test_the_cheap_way_is_taken_with_the_release_that_is_installed():
    assert writer.best_write() is writer.write_together


def test_a_release_that_nobody_tried_goes_the_documented_way(monkeypatch):
    monkeypatch.setattr(writer, "version", lambda _: "7.3.0")
    assert writer.best_write() is writer.write_each
