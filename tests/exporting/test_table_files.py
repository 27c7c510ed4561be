"""Tables that leave the program: every number as it is, in the form that the ending names."""

import io
import json

import pandas as pd
import pytest

from core.exporting import embedded_settings
from core.exporting.table_files import TABLE_MIME, export_table, table_bytes

FRAME = pd.DataFrame({"token": ["=bad", "good"], "effect": [0.1 + 0.2, float("nan")], "n": [3, 4]})
RECIPE = json.dumps({"seed": 0})


def test_json_has_every_number_and_null_for_what_is_none():
    held = json.loads(table_bytes(FRAME, "json", recipe=RECIPE))
    assert held["rows"] == [
        {"token": "=bad", "effect": 0.1 + 0.2, "n": 3},
        {"token": "good", "effect": None, "n": 4},
    ]
    assert held["recipe"] == {"seed": 0}


def test_parquet_has_the_frame_and_the_settings(tmp_path):
    path = export_table(FRAME, tmp_path / "cells.PARQUET", recipe=RECIPE)
    pd.testing.assert_frame_equal(pd.read_parquet(path), FRAME)
    assert json.loads(embedded_settings.read(path.read_bytes())) == {"seed": 0}


def test_csv_has_no_formula():
    read = pd.read_csv(io.BytesIO(table_bytes(FRAME, "csv")))
    assert list(read) == list(FRAME)
    assert read["token"][0] == "'=bad"
    assert read["effect"][0] == 0.1 + 0.2


@pytest.mark.parametrize("name", ["cells", "cells.xlsx"])
def test_an_ending_that_names_no_form_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(ValueError, match=f"The table '{name}' has no ending that names its form"):
        export_table(FRAME, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_is_none_is_refused():
    with pytest.raises(ValueError, match=f"as 'xlsx'; choose one of {', '.join(TABLE_MIME)}"):
        table_bytes(FRAME, "xlsx")
