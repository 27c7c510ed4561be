"""What a page draws, read back from what it sends to the browser."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
from streamlit.testing.v1 import AppTest


def charts(page: AppTest) -> list[dict[str, Any]]:
    """The specifications, checked against Vega-Lite's schema, which a served page leaves out."""
    texts = [chart.proto.spec for chart in page.get("vega_lite_chart")]
    for text in texts:
        _check(text)
    return [json.loads(text) for text in texts]


@cache
def _check(text: str) -> None:
    alt.TopLevelSpec.validate(json.loads(text))


def titles(page: AppTest) -> list[str]:
    return [spec["title"]["text"] for spec in charts(page) if "title" in spec]


def data_of(page: AppTest, number: int) -> pd.DataFrame:
    """The frame of a chart that draws a single one."""
    (dataset,) = page.get("vega_lite_chart")[number].proto.datasets
    frame: pd.DataFrame = pa.ipc.open_stream(dataset.data.data).read_pandas()
    return frame
