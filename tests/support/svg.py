"""What stands in a figure: its specification drawn, and the drawing read."""

import json
from typing import Any
from xml.etree import ElementTree

import vl_convert

NAMESPACE = "{http://www.w3.org/2000/svg}"


def drawn(spec: dict[str, Any]) -> str:
    return vl_convert.vegalite_to_svg(json.dumps(spec))


def texts_of(svg: str | bytes) -> list[str]:
    return [
        "".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{NAMESPACE}text")
    ]


def shapes_of(svg: str | bytes, layer: int) -> list[dict[str, str]]:
    """The attributes of every mark of one layer of a chart."""
    return [
        dict(shape.attrib)
        for group in ElementTree.fromstring(svg).iter(f"{NAMESPACE}g")
        if group.get("class", "").endswith(f" layer_{layer}_marks")
        for shape in group
    ]
