"""A refusal may quote what a file holds, and is printed in a terminal."""

from mmhicra.core.errors import ConfigError, DataError


def test_data_are_refused_on_one_line_without_control_characters():
    assert str(DataError("the column a\r\nb\x1b[31m is\tred")) == r"the column a\r b\x1b[31m is\tred"
    assert str(ConfigError("configuration: a\nconfiguration: b\x07")) == "configuration: a\nconfiguration: b\\x07"
    assert str(DataError("größer als 東京 \ud800")) == "größer als 東京 \\ud800"
