"""People's own files: each awkward one is read right or refused in a sentence; no row gets lost."""

import csv
import gzip
import io
import json
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from paths import ROOT
from pyarrow import parquet

from core.data import columns, read_file, tables, text_encoding
from core.data.labelling import LabelledTable, label_rows, read_labels, text_groups
from core.data.labels import LabelReading, Question
from core.data.read_file import read_pair, read_table
from core.data.tables import Table, safe_csv
from core.errors import UserError


@dataclass(frozen=True)
class File:
    """An awkward file: its bytes, and what must come out of it."""

    content: bytes | str
    used: list[tuple[str, int]] | None = None  # texts and labels, in order
    refused: dict[int, str] | None = None  # line -> part of the reason
    neutral: int = 0
    sentence: str = ""  # what the error says, where the file cannot be used
    name: str = "tweets.csv"

    @property
    def raw(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.encode()


TWO = [("good day", 1), ("bad day", 0)]
PLAIN = "text,label\ngood day,1\nbad day,0\n"
BALANCED = "label,text\n" + '0,"bad day\n1,good day"\n' * 4
LONG = "x" * 10_000_000
S140 = (
    '"0","1467810369","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","_TheSpecialOne_",'
    '"@switchfoot awww, that\'s a bummer. caf\xe9 closed"\n'
    '"4","1467822272","Mon Apr 06 22:22:45 PDT 2009","NO_QUERY","ersle","I LOVE @Health4UandPets"\n'
).encode("latin-1")


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


def class_label_parquet() -> bytes:
    """A shard of tweet_eval, with the names of the classes that `datasets` writes into it."""
    names = ["negative", "neutral", "positive"]
    features = {"label": {"names": names, "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    told = json.dumps({"info": {"features": features}}).encode()
    table = pa.table({"text": ["bad day", "a day", "good day"], "label": [0, 1, 2]})
    return parquet_bytes(table.replace_schema_metadata({b"huggingface": told}))


def bomb(size: int = 300 * 2**20) -> bytes:
    """A gzip file of 300 KB that unpacks to ``size`` bytes."""
    packer = zlib.compressobj(9, wbits=31)
    block = b"a" * 2**20
    return b"".join(packer.compress(block) for _ in range(size // 2**20)) + packer.flush()


FILES: dict[str, File] = {
    "plain": File(PLAIN, TWO),
    "line ends of Windows": File(PLAIN.replace("\n", "\r\n"), TWO),
    "line ends of old Macs": File(PLAIN.replace("\n", "\r"), TWO),
    "no line end at the end": File(PLAIN.rstrip("\n"), TWO),
    "blank lines": File("\n\ntext,label\n\ngood day,1\n  \nbad day,0\n\n", TWO),
    "UTF-8 with BOM": File(PLAIN.encode("utf-8-sig"), TWO),
    "UTF-16 with BOM": File(PLAIN.encode("utf-16"), TWO),
    "UTF-16 without BOM": File(PLAIN.encode("utf-16-le"), TWO),
    "UTF-16 of the other order": File(PLAIN.encode("utf-16-be"), TWO),
    "UTF-32": File(PLAIN.encode("utf-32"), TWO),
    "UTF-16 cut in a character": File(
        PLAIN.encode("utf-16")[:-1], sentence="not written in utf-16"
    ),
    "Latin-1": File(
        "text,label\nle caf\xe9 \xe9tait tr\xe8s bon,1\nd\xe9\xe7u par l'h\xf4tel,0\n".encode(
            "latin-1"
        ),
        [("le caf\xe9 \xe9tait tr\xe8s bon", 1), ("d\xe9\xe7u par l'h\xf4tel", 0)],
    ),
    "quotes of Windows-1252": File(
        "text,label\nit\u2019s \u201cgreat\u201d,1\nnot good \u2013 bad,0\n".encode("cp1252"),
        [("it\u2019s \u201cgreat\u201d", 1), ("not good \u2013 bad", 0)],
    ),
    "Cyrillic of Windows": File(
        (
            "text,label\n\u041c\u043d\u0435 \u043e\u0447\u0435\u043d\u044c "
            "\u043f\u043e\u043d\u0440\u0430\u0432\u0438\u043b\u0441\u044f "
            "\u0444\u0438\u043b\u044c\u043c,1\n\u0443\u0436\u0430\u0441\u043d\u043e "
            "\u043f\u043b\u043e\u0445\u043e\u0439 \u0441\u0435\u0440\u0432\u0438\u0441,0\n"
        ).encode("cp1251"),
        [
            (
                "\u041c\u043d\u0435 \u043e\u0447\u0435\u043d\u044c "
                "\u043f\u043e\u043d\u0440\u0430\u0432\u0438\u043b\u0441\u044f "
                "\u0444\u0438\u043b\u044c\u043c",
                1,
            ),
            (
                "\u0443\u0436\u0430\u0441\u043d\u043e \u043f\u043b\u043e\u0445\u043e\u0439 "
                "\u0441\u0435\u0440\u0432\u0438\u0441",
                0,
            ),
        ],
    ),
    "UTF-8 with one wrong byte": File(
        "text,label\n\U0001f600\U0001f600 good,1\n".encode() + b"caf\xe9,1\n" + b"bad day,0\n",
        [("\U0001f600\U0001f600 good", 1), ("bad day", 0)],
        {3: "not UTF-8"},
    ),
    "emoji and other planes": File(
        "text,label\n\U0001f469\u200d\U0001f52c loves it \u2764\ufe0f,1\n\U0001d4ea bad,0\n",
        [("\U0001f469\u200d\U0001f52c loves it \u2764\ufe0f", 1), ("\U0001d4ea bad", 0)],
    ),
    "separators that are no line ends": File(
        "text,label\ngood\u2028day\x85\x0b,1\nbad day,0\n", [("good\u2028day", 1), ("bad day", 0)]
    ),
    "tabs": File(PLAIN.replace(",", "\t"), TWO, name="tweets.tsv"),
    "semicolons": File(
        "text;label\ngood, sunny day;1\nbad day;0\n", [("good, sunny day", 1), ("bad day", 0)]
    ),
    "semicolons without a header": File(
        "a sunny, fine day;positive\ngrey, cold;negative\n",
        [("a sunny, fine day", 1), ("grey, cold", 0)],
    ),
    "bars": File(PLAIN.replace(",", "|"), TWO),
    "delimiter told in the first line, as Excel does": File(
        "sep=;\r\ntext;label\r\ngood day;1\r\nbad day;0\r\n", TWO
    ),
    "tabs in a file named CSV": File(PLAIN.replace(",", "\t"), TWO),
    "quotes and delimiters in fields": File(
        'text,label\n"a ""good"", sunny day",1\n"bad, bad day",0\n',
        [('a "good", sunny day', 1), ("bad, bad day", 0)],
    ),
    "line ends in fields": File(
        'text,label\n"good\nday\r\n\n!",1\nbad day,0\n', [("good\nday\r\n\n!", 1), ("bad day", 0)]
    ),
    "quotes after a backslash": File(
        'text,label\n"a \\"good\\", sunny day",1\n"bad day",0\n',
        [('a "good", sunny day', 1), ("bad day", 0)],
    ),
    "quotes as they are, between tabs": File(
        'text\tlabel\n"good day\t1\n"bad" day\t0\n6" of snow\t0\n',
        [('"good day', 1), ('"bad" day', 0), ('6" of snow', 0)],
    ),
    "a quote among texts without quotes": File(
        'text,label\n"good day,1\nfine,1\nbad day,0\n',
        [('"good day', 1), ("fine", 1), ("bad day", 0)],
    ),
    "a quote that is never closed": File(
        'text,label\n"fine, day",1\n"good day,1\nfine,1\nbad day,0\n',
        [("fine, day", 1), ("fine", 1), ("bad day", 0)],
        {3: "quote in the row is not closed"},
    ),
    "a quote that is never closed, after many rows": File(
        PLAIN + "fine,1\n" * 2000 + '"cut,1\n' + "fine,1\n" * 2000,
        [*TWO, *[("fine", 1)] * 4000],
        {2004: "quote in the row is not closed"},
    ),
    "a quote that swallows until the next": File(
        'text,label\n"good day,1\nfine,1\n"bad, bad day",0\n"so, so",0\n',
        [("fine", 1), ("bad, bad day", 0), ("so, so", 0)],
        {2: "quote in the row is not closed"},
    ),
    "quotes around a part of a field": File(
        'text,label\n"Best day" ever,1\n"bad, bad day",0\n',
        [('"Best day" ever', 1), ("bad, bad day", 0)],
    ),
    "quotes placed wrongly": File(
        'text,label\n"Best, day" ever,1\n"bad, bad day",0\n"good, day",1\n',
        [("bad, bad day", 0), ("good, day", 1)],
        {2: "quotes in the row are placed wrongly"},
    ),
    "ragged rows": File(
        "text,label\ngood day,1\nhello, you,1\nalone\nbad day,0\n",
        TWO,
        {3: "3 fields instead of 2", 4: "1 field instead of 2"},
    ),
    "a delimiter at the end of each row": File("text,label\ngood day,1,\nbad day,0,\n", TWO),
    "a delimiter at the end of each row and of the header": File(
        "text,label,\ngood day,1,\nbad day,0,\n", TWO
    ),
    "two columns of one name": File("text,text,label\ngood day,a,1\nbad day,b,0\n", TWO),
    "columns without names": File(",text,label\n0,good day,1\n1,bad day,0\n", TWO),
    "names in other cases": File(" Review Text ,Sentiment\ngood day,1\nbad day,0\n", TWO),
    "no header": File("good day,1\nbad day,0\n", TWO),
    "a header of unknown names": File(
        "what was said,how\ngood day,positive\nbad day,negative\n", TWO
    ),
    "empty file": File("", sentence="is empty"),
    "blank lines only": File("\n \n\n", sentence="blank lines only"),
    "header only": File("text,label\n", sentence="a header but no rows"),
    "one row": File("text,label\ngood day,1\n", [("good day", 1)]),
    "one row without a header": File("good day,1\n", sentence="choose one of 'column 1'"),
    "one class only": File("text,label\ngood day,1\nfine,1\n", [("good day", 1), ("fine", 1)]),
    "one column": File("text\ngood day\nbad day\n", sentence="has one column, 'text'"),
    "texts alone": File(
        "I like it, a lot\nno\nwell, yes, no\n", sentence="has one column", name="train_text.txt"
    ),
    "empty texts": File(
        'text,label\n,1\n"  ",0\ngood day,1\nbad day,0\n\u2003,1\n',
        TWO,
        {2: "text is empty", 3: "text is empty", 6: "text is empty"},
    ),
    "texts that look missing": File(
        "text,label\nNA,1\nnull,0\nNone,1\n", [("NA", 1), ("null", 0), ("None", 1)]
    ),
    "missing labels": File(
        "text,label\nwhat,\ngood day,1\nhm,NaN\nbad day,0\n",
        TWO,
        {2: "label is missing", 4: "label is missing"},
    ),
    "unknown labels": File(
        "text,label\ngood day,positive\nbad day,negative\nads,irrelevant\n",
        TWO,
        {4: "label 'irrelevant' is not known"},
    ),
    "every label unknown": File(
        "text,label\na,spam\nb,ham\n", sentence="values ham, spam: say which are positive"
    ),
    "labels in a float column": File("text,label\ngood day,1.0\nbad day,0.0\n", TWO),
    "labels in every spelling": File(
        "text,label\ngood day,Positive\nfine, POS \nbad day,Neg\nhm,Neutral\n",
        [("good day", 1), ("fine", 1), ("bad day", 0)],
        neutral=1,
    ),
    "degrees": File("text,label\ngood day,Extremely Positive\nbad day,slightly negative\n", TWO),
    "signs": File("text,label\ngood day,+1\nbad day,-1\nhm,0\n", TWO, neutral=1),
    "true and false": File("text,label\ngood day,True\nbad day,False\n", TWO),
    "stars": File(
        "review,stars\na,5\nb,4\nc,3\nd,2\ne,1\n",
        [("a", 1), ("b", 1), ("d", 0), ("e", 0)],
        neutral=1,
    ),
    "0 to 4": File(
        "text,label\na,4\nb,3\nc,2\nd,1\ne,0\n", [("a", 1), ("b", 1), ("d", 0), ("e", 0)], neutral=1
    ),
    "1 and 2": File("text,label\na,1\nb,2\n", sentence="numbers 1, 2, which can be read in more"),
    "stars without the lowest": File(
        "text,stars\na,5\nb,4\n", sentence="numbers 4, 5, which can be read in more than one way"
    ),
    "0 to 2 stars, of maybe five": File(
        "text,stars\na,0\nb,1\nc,2\n", sentence="numbers 0, 1, 2, which can be read in more"
    ),
    "ratings with a sign": File("text,rating\ngood day,2.5\nbad day,-1.25\nhm,0\n", TWO, neutral=1),
    "ratings with a decimal comma": File("text;rating\ngood day;2,5\nbad day;-1,25\n", TWO),
    "scores from 0 to 1": File(
        "text,score\na,0.25\nb,0.75\n", sentence="numbers from 0.25 to 0.75: say up to which"
    ),
    "labels that are texts": File(
        "text,label\n" + "".join(f"a{i},value {i}\n" for i in range(60)),
        sentence="60 different values, so these are no labels",
    ),
    "10 million characters in a cell": File(
        f"text,label\n{LONG},1\ngood day,1\nbad day,0\n", TWO, {2: "longer than 10,000 characters"}
    ),
    "10 million characters in a line that is no row": File(
        f"text,label\ngood day,1\nbad day,0\n{LONG}\n", TWO, {4: "1 field instead of 2"}
    ),
    "NUL in a text": File(
        "text,label\ngo\0od,1\ngood day,1\nbad day,0\n", TWO, {2: "NUL character"}
    ),
    "a binary file named CSV": File(random.Random(0).randbytes(5000), sentence="binary file"),
    "NULs only": File(b"\0" * 5000, sentence="binary file"),
    "a workbook named CSV": File(b"PK\x03\x04" + b"\0" * 100, sentence="an Excel workbook"),
    "a picture named CSV": File(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", sentence="a picture"),
    "a PDF named CSV": File(b"%PDF-1.7\n...", sentence="a PDF document"),
    "a web page named CSV": File("\n<!DOCTYPE html><html>Log in</html>", sentence="a web page"),
    "formulas": File(
        'text,label\n"=HYPERLINK(""http://x"")",1\n@SUM(1),0\n',
        [('=HYPERLINK("http://x")', 1), ("@SUM(1)", 0)],
    ),
    "duplicates": File(
        "text,label\ngood day,1\nGood  DAY,1\nbad day,0\n",
        [("good day", 1), ("Good  DAY", 1), ("bad day", 0)],
    ),
    "too many columns": File(",".join(map(str, range(2000))) + "\n", sentence="2,000 columns"),
    "gzip": File(gzip.compress(PLAIN.encode()), TWO, name="tweets.csv.gz"),
    "gzip under another name": File(gzip.compress(PLAIN.encode()), TWO),
    "gzip that was cut short": File(
        gzip.compress(PLAIN.encode() * 99)[:-20], sentence="damaged or cut short"
    ),
    "gzip with a flipped bit": File(
        gzip.compress(PLAIN.encode())[:-8] + b"\0\0\0\0" + gzip.compress(PLAIN.encode())[-4:],
        sentence="damaged or cut short",
    ),
    "gzip of nothing": File(gzip.compress(b""), sentence="is empty"),
    "gzip of gzip": File(gzip.compress(gzip.compress(b"text")), sentence="gzip twice"),
    "a gzip bomb": File(bomb(), sentence="unpacks to more than 256 MiB"),
    "JSON lines": File(
        '{"text": "good day", "label": 1}\n{"label": 0, "text": "bad day", "by": {"id": 1}}\n',
        TWO,
        name="tweets.jsonl",
    ),
    "JSON lines in a file named CSV": File(
        '{"text": "good day", "label": "pos"}\n{"text": "bad day", "label": "neg"}\n', TWO
    ),
    "JSON lines of all kinds": File(
        '{"text": "good day", "label": true}\nno JSON\n["list"]\n{"text": "bad day", "label": '
        'false}\n{"text": "half \\ud83d", "label": true}\n{"text": null, "label": true}\n'
        '{"label": true}\n{"text": ["a"], "label": false}\n{"text": "x", "label": NaN}\n'
        '{"text": "cut of\n' + "[" * 100_000 + "\n",
        TWO,
        {
            **{2: "not JSON", 3: "not a JSON object", 5: "half a character", 6: "text is empty"},
            **{7: "text is empty", 8: "text is empty", 9: "label is missing", 10: "not JSON"},
            11: "not JSON",
        },
        name="tweets.jsonl",
    ),
    "JSON lines with late columns": File(
        '{"id": 7}\n{"text": "good day", "label": 1}\n{"text": "bad day", "label": 0}\n',
        TWO,
        {1: "text is empty"},
        name="tweets.ndjson",
    ),
    "no line is JSON": File(PLAIN, sentence="No row of t.jsonl can be used", name="t.jsonl"),
    "one JSON list": File(
        '[{"text": "good day", "label": 1},\n {"text": "bad day", "label": 0}]',
        TWO,
        name="tweets.json",
    ),
    "one JSON list with what is no object": File(
        '[\n{"text": "good day", "label": 1},\n[7],\n{"text": "bad day", "label": 0}]',
        TWO,
        {3: "not a JSON object"},
        name="tweets.json",
    ),
    "JSON objects over several lines": File(
        '{\n  "text": "good day",\n  "label": 1\n}\n{\n  "text": "bad day",\n  "label": 0\n}\n',
        TWO,
        name="tweets.json",
    ),
    "one JSON object over several lines": File(
        '{\n  "text": "good day",\n  "label": 1\n}\n', [TWO[0]], name="tweets.json"
    ),
    "JSON of columns as lists": File(
        '{"text": ["good day", "bad day"], "label": [1, 0]}', TWO, name="tweets.json"
    ),
    "JSON of rows and what is said of them": File(
        '{"version": "1", "data": [{"text": "good day", "label": 1}, {"text": "bad day", '
        '"label": 0}]}',
        TWO,
        name="tweets.json",
    ),
    "JSON as a server answers": File(
        '{\n"count": 2,\n"next": null,\n"results": [\n{"text": "good day", "label": 1},\n'
        '{"text": "bad day", "label": 0}]}',
        TWO,
        name="tweets.json",
    ),
    "JSON of several tables": File(
        '{"train": [{"text": "good day", "label": 1}], "test": [{"text": "bad day", "label": 0}]}',
        sentence="tweets.json holds 2 tables, 'train', 'test': give one of them as a file",
        name="tweets.json",
    ),
    "one JSON line with a list of objects in it": File(
        '{"text": "good day", "label": 1, "entities": [{"start": 0}]}\n',
        [TWO[0]],
        name="tweets.jsonl",
    ),
    "JSON that is nothing": File("[{", sentence="the line is not JSON", name="tweets.json"),
    "objects over several lines that break off": File(
        '{\n"text": "good day",\n"label": 1\n}\n{\n"text": "ba', [TWO[0]], {5: "not JSON"}
    ),
    "JSON that breaks off": File(
        '[{"text": "good day", "label": 1}, {"text": "ba',
        [TWO[0]],
        {1: "what follows is not JSON"},
        name="tweets.json",
    ),
    "fastText": File(
        "__label__positive good day\n\n__label__negative , bad day\nno label\n",
        TWO,
        {4: "does not begin with __label__"},
        name="train.txt",
    ),
    "labels of fastText as a column": File(
        "text,label\ngood day,__label__positive\nbad day,__label__negative\n", TWO
    ),
    "labels of fastText as the first column": File(
        "label,text\n__label__positive,good day\n__label__negative,bad day\n", TWO
    ),
    "labels of fastText between tabs": File(
        "__label__positive\tgood day\n__label__negative\tbad day\n", TWO, name="train.txt"
    ),
    "a space before each quote": File(
        'label, text\n1, "well, ""good"" day"\n0, "well, bad day"\n',
        [('well, "good" day', 1), ("well, bad day", 0)],
    ),
    "commas without quotes": File(
        "text,label\nwell, good day,1\nwell, bad day,0\n",
        sentence="the row has 3 fields instead of 2 (2)",
    ),
    "quotes that another row closes": File(
        BALANCED, [('"bad day', 0), ('good day"', 1)] * 4, name="tweets.csv"
    ),
    "quotes that another row closes, between tabs": File(
        BALANCED.replace(",", "\t"), [('"bad day', 0), ('good day"', 1)] * 4, name="tweets.tsv"
    ),
    "quotes that another row closes, among plain rows": File(
        "text\tlabel\n" + "fine\t1\nhm\t0\n" * 30 + '"good day\t1\nbad day"\t0\n',
        [*[("fine", 1), ("hm", 0)] * 30, ('"good day', 1), ('bad day"', 0)],
        name="tweets.tsv",
    ),
    "quotes that another row closes, without a header": File(
        "joy 1,positive\nno 2,negative\n" * 3 + '"good day,positive\nbad day",negative\n',
        [*[("joy 1", 1), ("no 2", 0)] * 3, ('"good day', 1), ('bad day"', 0)],
    ),
    "texts between quotes, one of lines like rows": File(
        'label,text\n1,"good day"\n0,"bad day"\n1,"fine"\n1,"for:\n1,sun\n0,rain"\n',
        [("good day", 1), ("bad day", 0), ("fine", 1), ("for:\n1,sun\n0,rain", 1)],
    ),
    "a text of lines that are no rows": File(
        'text,label\n"good day, I say\n1, 2, 3\nend",1\n"first, 0\nbad day",0\n',
        [("good day, I say\n1, 2, 3\nend", 1), ("first, 0\nbad day", 0)],
    ),
    "a header of the columns' numbers": File("0,1\n1,good day\n0,bad day\n", TWO),
    "a header of the columns' numbers in another order": File("1,0\ngood day,1\nbad day,0\n", TWO),
    "a header of the columns' numbers and an index": File(
        ",0,1\n0,good day,1\n1,bad day,0\n2,hm,0\n3,oh,1\n", [*TWO, ("hm", 0), ("oh", 1)]
    ),
    "a first row of numbers that is no header": File(
        "1,0\n0,1\n1,1\n", sentence="No column of tweets.csv is sure to hold texts"
    ),
    "0, 1 and 2": File("text,label\na,0\nb,1\nc,2\n", sentence="the numbers 0, 1, 2, which can"),
    "0, 1 and 2 with words beside": File(
        "text,label,sentiment\ngood day,0,positive\nbad day,1,negative\nhm,2,neutral\n",
        TWO,
        neutral=1,
    ),
    "0 and 1 with words beside, turned round": File(
        "text,label,name\ngood day,0,Positive\nbad day,1,Negative\n", TWO
    ),
    "0 and 1 with words beside, turned round but for a mistake": File(
        "text,label,name\n" + "so,0,pos\nno,1,neg\n" * 10 + "hm,0,neg\n",
        [*[("so", 1), ("no", 0)] * 10, ("hm", 1)],
    ),
    "0 and 1 with words of several degrees beside": File(
        "text,label,name\nso,0,very positive\noh,0,positive\nno,1,slightly negative\n",
        [("so", 1), ("oh", 1), ("no", 0)],
    ),
    "0 and 1 with words beside, and a value that is neither": File(
        "text,label,name\nso,0,pos\nno,1,neg\noh,0,pos\nhm,?,pos\n",
        [("so", 1), ("no", 0), ("oh", 1)],
        {5: "the label '?' is not known"},
    ),
    "0 and 1 with words beside that are of something else": File(
        "text,label,mood of the author\n" + "so,1,pos\noh,1,neg\nno,0,neg\nhm,0,pos\n" * 5,
        [("so", 1), ("oh", 1), ("no", 0), ("hm", 0)] * 5,
    ),
    "ratings with words beside that turn them round": File(
        "text,label,name\na,0,very positive\nb,1,positive\nc,2,neutral\nd,3,negative\n"
        "e,4,very negative\n",
        [("a", 1), ("b", 1), ("d", 0), ("e", 0)],
        neutral=1,
    ),
    "0 and 1 with other words beside": File(
        "text,label,label_text\n" + "so,0,irony\noh,1,other\n" * 3,
        sentence="the numbers 0 irony, 1 other, as 'label_text' says",
    ),
    "-1 alone": File("text,label\na,-1\nb,-1\n", sentence="but -1, which is no class"),
    "-1 beside classes": File(
        "text,label\na,-1\nb,0\nc,1\nd,2\n", sentence="the numbers -1, 0, 1, 2, which can be"
    ),
    "lists of classes between tabs": File(
        "so so\t2\noh no\t8,20\nno way\t2,1\nhm hm\t2,10\n",
        sentence="not clear which column of train.tsv has the labels",
        name="train.tsv",
    ),
    "ids alone": File(
        "".join(f"73000000000000000{i}\t{'positive' if i % 2 else 'negative'}\n" for i in range(9)),
        sentence="No column of tweets.tsv is sure to hold texts",
        name="tweets.tsv",
    ),
    "ids in a column of the name of texts": File(
        "post,label\n17,1\n18,0\n", sentence="No column of tweets.csv is sure to hold texts"
    ),
    "dates alone": File(
        "when,label\nMon Apr 06 22:19:45 PDT 2009,1\n2009-04-06 22:20,0\n6 April 2009,1\n"
        '"Apr. 6th, 2009 10:30 pm",0\n2009-04-06T22:19:45Z,1\n',
        sentence="No column of tweets.csv is sure to hold texts",
    ),
    "addresses alone": File(
        "link,label\nhttps://a.org/b?c=the%20day,1\nwww.b.org,0\nme@c.org,1\n",
        sentence="No column of tweets.csv is sure to hold texts",
    ),
    "user names alone": File(
        "who,label\n@bob,1\nswitch_foot,0\nersle17,1\n",
        sentence="No column of tweets.csv is sure to hold texts",
    ),
    "texts of a language without spaces": File(
        "\u5185\u5bb9,label\n\u8fd9\u4e2a\u5f88\u597d,1\n\u4e0d\u597d\u7528\u5440,0\n",
        [("\u8fd9\u4e2a\u5f88\u597d", 1), ("\u4e0d\u597d\u7528\u5440", 0)],
    ),
    "texts among ids and dates": File(
        "1,2009-04-06,positive,a day,@bob\n2,2009-04-07,negative,no day,al\n",
        [("a day", 1), ("no day", 0)],
    ),
    "Parquet": File(
        parquet_bytes(pa.table({"text": ["good day", "bad day"], "label": [1.0, 0.0]})),
        TWO,
        name="tweets.parquet",
    ),
    "Parquet with dictionaries and lists": File(
        parquet_bytes(
            pa.table(
                {
                    "tags": [["a"], []],
                    "text": pa.array(["good day", "bad day"]).dictionary_encode(),
                    "label": pa.array([True, False]),
                }
            )
        ),
        TWO,
        name="tweets.parquet",
    ),
    "Parquet of tweet_eval": File(
        class_label_parquet(), [("bad day", 0), ("good day", 1)], neutral=1, name="train.parquet"
    ),
    "Parquet without rows": File(
        parquet_bytes(pa.table({"text": pa.array([], pa.string())})), sentence="no rows"
    ),
    "Parquet that was cut short": File(
        parquet_bytes(pa.table({"text": ["a"]}))[:-30], sentence="damaged Parquet file"
    ),
    "Parquet of text that is no UTF-8": File(
        parquet_bytes(pa.table({"text": ["good day"], "label": [1]})).replace(b"good", b"g\xffod"),
        sentence="damaged Parquet file",
    ),
    "CSV named Parquet": File(PLAIN, sentence="not a Parquet file", name="tweets.parquet"),
    "Sentiment140": File(
        S140,
        [("@switchfoot awww, that's a bummer. caf\xe9 closed", 0), ("I LOVE @Health4UandPets", 1)],
        name="training.1600000.processed.noemoticon.csv",
    ),
    "Sentiment140, negative rows only": File(
        S140.splitlines(keepends=True)[0],
        [("@switchfoot awww, that's a bummer. caf\xe9 closed", 0)],
    ),
}


def use(raw: bytes, name: str = "tweets.csv") -> tuple[Table, LabelledTable]:
    table = read_table(raw, name)
    return table, label_rows(table)


def in_one_sentence(error: pytest.ExceptionInfo[ValueError]) -> str:
    told = str(error.value)
    assert told.endswith(".")
    assert "\n" not in told
    assert len(told) < 400
    assert error.type in (UserError, Question)
    return told


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_an_awkward_file_is_read_right_or_refused_in_a_sentence(file):
    if file.used is None:
        with pytest.raises(ValueError, match=re.escape(file.sentence)) as error:
            use(file.raw, file.name)
        in_one_sentence(error)
        return
    table, labelled = use(file.raw, file.name)
    frame = labelled.frame
    assert list(zip(frame["text"], frame["label"], strict=True)) == file.used
    found = {refusal.line: refusal.reason for refusal in labelled.refused}
    expected = file.refused or {}
    assert found.keys() == expected.keys()
    assert all(part in found[line] for line, part in expected.items())
    assert labelled.left_out == file.neutral
    # Nothing is lost: every row is used, neutral or listed, under its own number.
    numbers = [*frame["row"], *(refusal.row for refusal in labelled.refused)]
    assert len(set(numbers)) == len(numbers)
    total = len(table.frame) + len(table.refused)
    assert len(numbers) + file.neutral == total
    assert set(numbers) <= set(range(total))
    assert table.describe().endswith(".")
    assert labelled.describe().endswith(".")


def test_there_are_enough_awkward_files():
    assert len(FILES) >= 40


# --- what is found out, and overruled -------------------------------------------------------------


def test_what_is_found_is_told():
    table = read_table(gzip.compress('a;b\n"an x";1\n"a y";0\n'.encode("utf-16")), "t.csv.gz")
    assert (table.encoding, table.delimiter, table.quoting, table.header) == (
        *("utf-16", ";", "doubled"),
        True,
    )
    assert table.packed
    assert table.columns == ("a", "b")
    assert (table.text, table.label) == ("a", "b")
    assert table.describe() == (
        "t.csv.gz: gzip, semicolons between the fields, quoted, quotes doubled, utf-16, "
        "with a header, 2 rows."
    )


def test_everything_found_can_be_overruled():
    raw = "text,label\n'a',1\nb;c,0\n".encode("cp1250")
    assert read_table(raw, header=False).frame.shape == (3, 2)
    assert read_table(raw, delimiter=";").frame["column 1"].tolist()[0] == "text,label"
    assert read_table(raw, delimiter="").frame.iloc[:, 0].tolist() == [
        *("text,label", "'a',1", "b;c,0")
    ]
    assert read_table("x\n\u0159".encode("cp1250"), encoding="cp1250", delimiter="").frame.iloc[
        -1, 0
    ] == ("\u0159")
    raw = b'text,label\n"a",1\n"b",0\n'
    assert read_table(raw, quoting="none").frame["text"].tolist() == ['"a"', '"b"']


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"delimiter": "::"}, "delimiter '::' cannot be used"),
        ({"delimiter": '"'}, "cannot be used"),
        ({"quoting": "single"}, "quoting 'single' is not known"),
        ({"encoding": "utf-9"}, "encoding 'utf-9' is not known"),
        ({"encoding": "rot13"}, "encoding 'rot13' is not known"),
        ({"encoding": "utf-16"}, "not written in utf-16"),
    ],
)
def test_what_cannot_be_asked_is_said(options, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        read_table(PLAIN.encode() + b"x", **options)
    in_one_sentence(error)


def test_a_path_an_open_file_and_bytes_are_the_same(tmp_path):
    path = tmp_path / "tweets.csv"
    path.write_bytes(PLAIN.encode())
    with open(path, "rb") as file:
        read = [read_table(path), read_table(file, path.name), read_table(PLAIN.encode())]
    assert [table.name for table in read] == ["tweets.csv", "tweets.csv", "The file"]
    for table in read[1:]:
        pd.testing.assert_frame_equal(table.frame, read[0].frame)


def test_a_file_that_cannot_be_opened_is_said(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_table(tmp_path)


def test_the_limit_is_on_the_file_and_on_what_it_unpacks_to(monkeypatch):
    big = b"text,label\n" + b"good day,1\n" * 200_000
    monkeypatch.setattr(text_encoding, "MAX_BYTES", 2**20)
    monkeypatch.setattr(read_file, "MAX_BYTES", 2**20)
    for raw, said in ((big, "is more than 1 MiB"), (gzip.compress(big), "unpacks to more than 1")):
        with pytest.raises(ValueError, match=said):
            read_table(raw)
    # A dictionary makes two million long texts of a few bytes.
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2_000_000), pa.array(["x" * 1000]))
    packed = parquet_bytes(pa.table({"text": texts}))
    assert len(packed) < 2**20
    with pytest.raises(ValueError, match="unpacks to more than 1 MiB"):
        read_table(packed)


def test_numbers_of_rows_and_cells_are_limited(monkeypatch):
    def refused(raw: bytes, name: str = "t.csv") -> str:
        with pytest.raises(ValueError, match="more than") as error:
            read_table(raw, name)
        return in_one_sentence(error)

    monkeypatch.setattr(read_file, "MAX_UNREADABLE", 5)
    assert refused(PLAIN.encode() + b"x\n" * 6) == (
        "t.csv has more than 5 rows that cannot be read: the row has 1 field instead of 2 (6)."
    )
    monkeypatch.setattr(read_file, "MAX_ROWS", 8)
    assert refused(PLAIN.encode() + b"fine,1\n" * 7) == (
        "t.csv has more than 8 rows: give a part of it."
    )
    monkeypatch.setattr(columns, "MAX_CELLS", 3)
    assert refused(PLAIN.encode()).startswith("The table has more than 3 cells")


def test_sentiment140_needs_no_question():
    table = read_table(S140, "test.csv")
    assert table.columns == ("target", "ids", "date", "flag", "user", "text")
    assert (table.text, table.label, table.encoding, table.header) == (
        *("text", "target", "cp1252"),
        False,
    )


def test_tweet_eval_is_two_files_line_by_line():
    texts = read_table(b"bad, day\n\nso so\n good day\n", "train_text.txt", delimiter="")
    labels = read_table(b"0\n2\n1\n2\n", "train_labels.txt", delimiter="")
    labelled = label_rows(tables.pair(texts, labels), mapping={"0": 0, "1": None, "2": 1})
    assert labelled.frame[["text", "label", "row"]].values.tolist() == [
        ["bad, day", 0, 0],
        ["good day", 1, 3],
    ]
    assert labelled.left_out == 1
    assert [(r.row, r.line, r.reason) for r in labelled.refused] == [(1, 2, "the text is empty")]
    short = read_table(b"0\n2\n", "train_labels.txt", delimiter="")
    with pytest.raises(ValueError, match=r"has 4 rows and train_labels.txt has 2"):
        tables.pair(texts, short)
    with pytest.raises(ValueError, match="has 2 columns"):
        tables.pair(read_table(PLAIN.encode()), labels)


ONE_A_LINE = b"a good day\nno, not today\nso it was\nwhat a mess\n"
SIDES = b"1\n0\n1\n0\n"


def test_two_files_are_a_pair_in_either_order_where_one_of_them_has_few_values():
    files = ((ONE_A_LINE, "tweets.txt"), (SIDES, "classes.txt"))
    for first, second in (files, files[::-1]):
        labelled = label_rows(read_pair(first, second))
        assert labelled.frame[["text", "label"]].values.tolist() == [
            *(["a good day", 1], ["no, not today", 0]),
            *(["so it was", 1], ["what a mess", 0]),
        ]
    # By their names a pair, though every text has a comma, and no label stands twice.
    named = read_pair((b"1\n0\n", "dev_labels.txt"), (b"good, day\nbad, day\n", "dev_text.txt"))
    assert label_rows(named).frame["text"].tolist() == ["good, day", "bad, day"]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (PLAIN.encode(), SIDES, "first.txt has 2 columns."),
        (ONE_A_LINE, b"a,1\nb,0\na,1\nb,0\n", "second.txt has 2 columns."),
        (ONE_A_LINE, b"1\n0\n1\n", "first.txt has 4 lines and second.txt has 3."),
        (ONE_A_LINE, ONE_A_LINE, "not clear which of first.txt and second.txt has the labels"),
        (ONE_A_LINE, b"yes\nand\nno\nor\n", "not clear which"),
        (SIDES, SIDES, "not clear which"),
        (SIDES, b"\x89PNG\r\n\x1a\n", "second.txt is a picture"),
    ],
)
def test_two_files_are_no_pair_where_that_is_not_clear(first, second, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        read_pair((first, "first.txt"), (second, "second.txt"))


def test_many_different_values_are_no_labels():
    values = [f"{number % 60}" for number in range(120)]
    texts = [f"day {number}" for number in range(120)]
    with pytest.raises(ValueError, match="not clear"):
        read_pair(("\n".join(texts).encode(), "a.txt"), ("\n".join(values).encode(), "b.txt"))


def test_columns_are_guessed_only_where_that_is_clear():
    def guess(content: str) -> tuple[str | None, str | None]:
        table = read_table(content.encode())
        return table.text, table.label

    airline = "tweet_id,airline_sentiment,airline_sentiment_confidence,name,text\n"
    assert guess(airline + "1,positive,1.0,bob,nice\n2,negative,0.5,al,no\n") == (
        "text",
        "airline_sentiment",
    )
    assert guess("clean_text,category\nwhat a day it was,1\nno,-1\nhm,0\n") == (
        "clean_text",
        "category",
    )
    # Two columns that could be labels, or two that could be texts.
    assert guess("text,retweet,happy\na,1,0\nb,0,1\n") == ("text", None)
    assert guess("title,summary,label\nabcd,dcba,0\nefgh,hgfe,1\n") == (None, "label")
    with pytest.raises(ValueError, match="not clear which column of The file has the labels"):
        label_rows(read_table(b"text,retweet,happy\na,1,0\nb,0,1\n"))
    labelled = label_rows(read_table(b"text,retweet,happy\na,1,0\nb,0,1\n"), label="happy")
    assert labelled.frame["label"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="has no column 'sad': choose one of 'text', 'retweet'"):
        label_rows(read_table(b"text,retweet,happy\na,1,0\nb,0,1\n"), label="sad")
    with pytest.raises(ValueError, match="cannot be both text and label"):
        label_rows(read_table(PLAIN.encode()), text="label")


# --- labels ---------------------------------------------------------------------------------------


def labels_of(*values: str, column: str = "label") -> LabelReading:
    rows = "".join(f"text {i};{value}\n" for i, value in enumerate(values))
    return read_labels(read_table(f"text;{column}\n{rows}".encode(), delimiter=";"), column)


@pytest.mark.parametrize(
    ("values", "meaning"),
    [
        (("0", "1"), {"0": 0, "1": 1}),
        (("-1", "1"), {"-1": 0, "1": 1}),
        (("-1", "0", "1"), {"-1": 0, "0": None, "1": 1}),
        (("0", "4"), {"0": 0, "4": 1}),
        (("0", "2", "4"), {"0": 0, "2": None, "4": 1}),
        (("0", "1", "2", "3", "4"), {"0": 0, "1": 0, "2": None, "3": 1, "4": 1}),
        (("1", "2", "3", "4", "5"), {"1": 0, "2": 0, "3": None, "4": 1, "5": 1}),
        (("pos", "neg"), {"pos": 1, "neg": 0}),
        (("positive", "neutral", "negative"), {"positive": 1, "neutral": None, "negative": 0}),
        (("good", "bad"), {"good": 1, "bad": 0}),
        (("-0.5", "0.25", "4"), {"-0.5": 0, "0.25": 1, "4": 1}),
    ],
)
def test_labels_of_one_possible_meaning_are_read(values, meaning):
    reading = labels_of(*values)
    assert reading.meaning == meaning
    assert reading.question == ""
    assert reading.values == dict.fromkeys(sorted(values), 1)


@pytest.mark.parametrize(
    "values",
    [
        ("0", "1", "2"),
        ("-1", "0"),
        ("-1", "0", "1", "2"),
        ("-1", "-1"),
        ("Pos.", "Neg."),
        ("positivo", "negativo"),
        ("1", "2"),
        ("1", "2", "3"),
        ("1", "2", "3", "4"),
        ("0", "1", "7"),
        ("0.1", "0.9"),
        ("1", "10"),
        ("yes", "no"),
        ("joy", "anger", "positive"),
        ("", ""),
    ],
)
def test_labels_of_several_meanings_are_a_question(values):
    reading = labels_of(*values)
    assert reading.question.endswith(".")
    assert reading.meaning == {}
    assert reading.neutral is None


def class_names_parquet(names: list[str], labels: list[int]) -> bytes:
    features = {"label": {"names": names, "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    told = json.dumps({"info": {"features": features}}).encode()
    table = pa.table({"text": [f"a day {i}" for i in range(len(labels))], "label": labels})
    return parquet_bytes(table.replace_schema_metadata({b"huggingface": told}))


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["positivo", "neutro", "negativo"], "negativo, neutro, positivo"),
        (["Bearish", "Bullish", "Neutral"], "bearish, bullish, neutral"),
        (["non-irony", "irony"], "irony, non-irony"),
    ],
)
def test_names_of_classes_are_used_whatever_they_are(names, listed):
    numbers = [*range(len(names))] * 3
    table = read_table(class_names_parquet(names, numbers), "train.parquet")
    with pytest.raises(Question, match=f"has the values {listed}: say which") as error:
        label_rows(table)
    assert error.value.about == "meaning"
    assert set(error.value.choices) == {name.casefold() for name in names}
    labelled = label_rows(table, mapping={names[0]: 1, names[-1]: 0})
    assert labelled.frame["label"].tolist() == [
        int(number == 0) for number in numbers if number in (0, len(names) - 1)
    ]


def test_a_row_of_the_class_minus_one_has_no_label():
    names = ["negative", "positive"]
    table = read_table(class_names_parquet(names, [1, -1, 0]), "train.parquet")
    labelled = label_rows(table)
    assert labelled.frame["label"].tolist() == [1, 0]
    assert [(r.row, r.reason) for r in labelled.refused] == [(1, "the label is missing")]
    with pytest.raises(ValueError, match="No row has a label in the column 'label'"):
        label_rows(read_table(class_names_parquet(names, [-1, -1]), "test.parquet"))


def test_what_was_read_is_said():
    def told(content: str, **options: object) -> str:
        return label_rows(read_table(content.encode()), **options).read_as()

    assert told(PLAIN) == "Texts from 'text'; labels from 'label': 1 positive, 0 negative."
    assert told("text,label\na,0\nb,1\nc,2\n", mapping={"0": 1, "1": 0, "2": None}) == (
        "Texts from 'text'; labels from 'label': 0 positive, 1 negative, 2 neutral."
    )
    assert told("text,label,name\na,0,pos\nb,1,neg\n") == (
        "Texts from 'text'; labels from 'label': 0 positive, 1 negative (as 'name' says)."
    )
    assert told("text,stars\na,1\nb,5\n") == (
        "Texts from 'text'; labels from 'stars': above 3 positive, below it negative."
    )
    assert told("text,score\na,0.1\nb,0.9\n", neutral=(0.4, 0.6)) == (
        "Texts from 'text'; labels from 'score': from 0.6 positive, up to 0.4 negative."
    )
    assert told("text,mood\na,positive\nb,Neg\n") == (
        "Texts from 'text'; labels from 'mood': positive, neg negative."
    )
    labelled = label_rows(read_table(PLAIN.encode()))
    assert labelled.describe() == f"1 positive and 1 negative texts. {labelled.read_as()}"


def test_quotes_that_another_row_closes_are_told():
    table = read_table(BALANCED.encode(), "t.csv")
    assert table.describe().endswith(
        "8 rows (8 with a quote that another row closes, read as it stands)."
    )
    assert (table.multiline, table.refused) == (0, ())


def test_any_character_divides_fields():
    for delimiter in "@~^#:x \u00a7\u2016":
        content = f"tweet{delimiter}y\ngood_day{delimiter}1\nbad_day{delimiter}0\n"
        table = read_table(content.encode(), delimiter=delimiter)
        labelled = label_rows(table, text="tweet", label="y")
        assert labelled.frame["text"].tolist() == ["good_day", "bad_day"]
        assert labelled.frame["label"].tolist() == [1, 0]


@pytest.mark.parametrize("orient", ["columns", "index", "records", "values", "split", "table"])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_that_pandas_writes_is_read(orient, indent):
    frame = pd.DataFrame({"text": [f"a day {i}" for i in range(12)], "label": [0, 1] * 6})
    for index in (range(12), [f"t{i}" for i in range(12)]):
        content = frame.set_axis(list(index)).to_json(orient=orient, indent=indent)
        table = read_table(content.encode(), "tweets.json")
        labelled = label_rows(table)
        assert labelled.frame["text"].tolist() == frame["text"].tolist()
        assert labelled.frame["label"].tolist() == frame["label"].tolist()
        assert labelled.refused == ()
        assert read_table(content.encode(), "tweets").frame.equals(table.frame)


def test_json_is_numbered_by_lines():
    content = '[\n  {\n    "text": "a",\n    "label": 1\n  },\n  {"text": "", "label": 0}\n]\n'
    table = read_table(content.encode(), "t.json")
    assert table.lines.tolist() == [2, 6]
    assert table.describe() == "t.json: JSON in utf-8, 2 rows."


@pytest.mark.parametrize(
    "cell",
    ["1" * 200 + "x", "1.-" * 60 + "x", "1 " * 99 + "x", "Mon " * 49 + "x", "a@" + "b." * 90 + "!"],
)
def test_no_cell_takes_long_to_be_told_from_a_date(cell):
    # Tried in every way, each of these would take for ever.
    assert not tables.are_no_texts(pd.Series([cell], dtype="str"))
    assert tables.are_texts(pd.Series([f"{cell} so good"], dtype="str"))


@pytest.mark.parametrize("cell", ["1", " ", ".-", "Mon ", "a@b.", '""', "__label__a "])
def test_no_cell_makes_a_file_take_for_ever(cell):
    content = f"a,b\n{cell * 200_000}x,0\ngood day here,1\n"
    for written in (content, content.replace(",0", '",0', 1).replace("b\n", 'b\n"', 1)):
        table = or_sentence(partial(read_table, written.encode()))
        if table is not None:
            or_sentence(partial(label_rows, table))


@pytest.mark.parametrize(
    ("delimiter", "values", "found"),
    [
        (";", ["2,5", "-1,25"], ["-1.25", "2.5"]),
        ("\t", ["2,5", "-1,25"], ["-1.25", "2.5"]),
        ("\t", ["3,05", "1,5"], ["1.5", "3.05"]),
        ("\t", ["8,20", "2,1"], ["2,1", "8,20"]),
        ("\t", ["8,20", "0,1", "0,10"], ["0,1", "0,10", "8,20"]),
        (";", ["2,1", "2,10"], ["2,1", "2,10"]),
    ],
)
def test_a_decimal_comma_is_told_from_a_list_of_classes(delimiter, values, found):
    content = "".join(f"a text{delimiter}{value}\n" for value in values)
    table = read_table(f"text{delimiter}label\n{content}".encode())
    assert sorted(read_labels(table, "label").values) == found


def test_a_mapping_takes_exactly_the_values_it_names():
    content = "".join(f"text {value}\t{value}\n" for value in ("2", "8,20", "2,1", "2,10", "17"))
    table = read_table(f"text\tlabel\n{content}".encode())
    labelled = label_rows(table, mapping={"2,1": 0, "17": 1})
    assert labelled.frame[["text", "label"]].values.tolist() == [["text 2,1", 0], ["text 17", 1]]
    assert [r.reason for r in labelled.refused] == [
        "the label '2' is not known",
        "the label '8,20' is not known",
        "the label '2,10' is not known",
    ]
    with pytest.raises(Question, match=r"has the values 17, 2, '2,1', '2,10', '8,20': say which"):
        label_rows(table)
    with pytest.raises(ValueError, match="'17' is mapped twice"):
        label_rows(table, mapping={"17": 1, "17.0": 0})


def test_any_values_are_mapped():
    table = read_table(b"text,label\na,Spam\nb,ham\nc,egg\nd,\ne,ham\n")
    labelled = label_rows(table, mapping={"spam": 0, "HAM ": 1, "egg": None})
    assert labelled.frame["label"].tolist() == [0, 1, 1]
    assert (labelled.positive, labelled.negative, labelled.left_out) == (2, 1, 1)
    assert labelled.meaning == {"spam": 0, "ham": 1, "egg": None}
    partly = label_rows(table, mapping={"spam": 0, "ham": 1})
    assert [r.reason for r in partly.refused] == [
        "the label 'egg' is not known",
        "the label is missing",
    ]
    turned = label_rows(read_table(PLAIN.encode()), mapping={"1.0": 0, "0": 1})
    assert turned.frame["label"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mapping": {"1": 1}}, "must name a positive (1) and a negative (0) value"),
        ({"mapping": {"1": 1, "0": 1}}, "must name a positive (1) and a negative (0) value"),
        ({"mapping": {"1": 1, "0": 2}}, "'0' is mapped to 2"),
        ({"mapping": {"1": 1, "x": 0}}, "has no value 'x': it has 0, 1"),
        ({"mapping": {"1": 1, "0": 0}, "neutral": (0, 1)}, "not both"),
        ({"neutral": (2, 1)}, "The neutral band 2 to 1 is none"),
        ({"neutral": (float("nan"), 1)}, "two numbers"),
        ({"neutral": (0, 1), "label": "user"}, "'user' has no numbers"),
    ],
)
def test_an_impossible_mapping_is_said(options, sentence):
    table = read_table(b"text,label,user\na,1,bob\nb,0,al\n")
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        label_rows(table, **options)
    in_one_sentence(error)


def test_a_neutral_band_reads_ratings():
    table = read_table(b"text,score\na,0.2\nb,0.4\nc,0.5\nd,0.6\ne,0.9\nf,?\n")
    labelled = label_rows(table, neutral=(0.4, 0.6))
    # The borders belong to the labels, as with `min_rating` of the built-in data sets.
    assert labelled.frame[["text", "label", "rating"]].values.tolist() == [
        *(["a", 0, 0.2], ["b", 0, 0.4]),
        *(["d", 1, 0.6], ["e", 1, 0.9]),
    ]
    assert labelled.left_out == 1
    assert [r.reason for r in labelled.refused] == ["the label '?' is not known"]
    at_one_number = label_rows(table, neutral=(0.5, 0.5))
    assert at_one_number.frame["label"].tolist() == [0, 0, 1, 1]
    assert at_one_number.left_out == 1


def test_only_ratings_make_a_column_of_ratings():
    stars = label_rows(read_table(b"text,stars\na,1\nb,5\nc,4\n"))
    assert stars.frame["rating"].tolist() == [1.0, 5.0, 4.0]
    assert list(stars.frame.columns) == ["text", "label", "rating", "row", "group"]
    assert list(label_rows(read_table(PLAIN.encode())).frame.columns) == [
        *("text", "label", "row", "group")
    ]
    assert stars.frame.dtypes.astype(str).tolist() == ["str", "int64", "float64", "int64", "int64"]


def test_no_usable_row_is_said():
    table = read_table(b"text,label\n,1\n ,0\nx,\ny,2\n")
    with pytest.raises(ValueError, match="No row of The file can be used") as error:
        label_rows(table, mapping={"1": 1, "0": 0})
    assert in_one_sentence(error) == (
        "No row of The file can be used: the text is empty (2), the label is missing (1), "
        "the label '2' is not known (1)."
    )


@pytest.mark.parametrize(
    ("content", "name", "why"),
    [
        (
            "".join(f"well, dreadful evening {n},{n % 2}\n" for n in range(9)),
            "commas.csv",
            "the row has 3 fields instead of 2 (9)",
        ),
        (
            "well, a day,1\n" * 3 + '"open,0\n',
            "commas.csv",
            "the row has 3 fields instead of 2 (3), a quote in the row is not closed (1)",
        ),
        ("1\n" * 2 + "{\n", "rows.jsonl", "the line is not a JSON object (2), the line is not"),
    ],
)
def test_where_no_row_can_be_read_the_reason_is_that_of_the_rows(content, name, why):
    header = "" if name.endswith(".jsonl") else "text,label\n"
    with pytest.raises(ValueError, match=f"No row of {name} can be used: ") as error:
        read_table((header + content).encode(), name)
    assert f"can be used: {why}" in in_one_sentence(error)


def test_an_empty_column_of_labels_comes_with_the_rows_that_cannot_be_read():
    table = read_table(b"text,label\n" + b"well, a day,1\n" * 9 + b"a day,\n")
    others = "9 rows cannot be used: the row has 3 fields instead of 2 (9)."
    question = read_labels(table, "label").question
    assert question.endswith(f" {others}")
    assert "'label'" in question
    with pytest.raises(ValueError, match=re.escape(others)):
        label_rows(table)


def test_repeated_texts_share_a_group():
    table = read_table("text,label\nA day,1\nno,0\n a  DAY ,0\n\uff21 day,1\nno,0\n".encode())
    labelled = label_rows(table)
    assert labelled.frame["group"].tolist() == [0, 1, 0, 0, 1]
    assert (labelled.duplicates, labelled.contradictions) == (3, 1)
    assert text_groups([]).dtype == np.int64


# --- what is written ------------------------------------------------------------------------------


def test_refused_rows_are_written_without_formulas():
    content = 'text,label\n"=1+1;2",x\nok,1\nno,0\n"\t=cmd",y\n"a ""b""",z\n'
    labelled = label_rows(read_table(content.encode()), mapping={"1": 1, "0": 0})
    written = safe_csv(labelled.refused_frame())
    assert written.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(written.decode("utf-8-sig"), newline="")))
    assert rows == [
        ["row", "line", "reason", "excerpt"],
        ["0", "2", "the label 'x' is not known", "'=1+1;2"],
        ["3", "5", "the label 'y' is not known", "'=cmd"],
        ["4", "6", "the label 'z' is not known", 'a "b"'],
    ]


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=4))
@example([("=1", "+1"), ("-1", "@x"), ("\t=1", "\r=1"), (" =1", "\ufeff=1")])
def test_no_cell_of_a_safe_csv_begins_a_formula(cells):
    written = safe_csv(pd.DataFrame(cells, columns=["=a", "b"])).decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert rows[0] == ["'=a", "b"]
    assert len(rows) == len(cells) + 1
    for row, told in zip(rows[1:], cells, strict=True):
        for cell, original in zip(row, told, strict=True):
            assert not cell.lstrip(" \u00a0\u200b\ufeff").startswith(tuple("=+-@\t\r\n"))
            assert cell in (original, f"'{original}")


def test_numbers_and_missing_cells_of_a_safe_csv_stay():
    frame = pd.DataFrame({"effect": [-0.5, 1.0], "line": pd.array([None, 3], dtype="Int64")})
    assert safe_csv(frame).decode("utf-8-sig") == '"effect","line"\r\n-0.5,""\r\n1.0,3\r\n'
    assert frame.shape == (2, 2)


# --- any file -------------------------------------------------------------------------------------

Result = TypeVar("Result")
TEXTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\r\t"), max_size=30
)


@given(
    rows=st.lists(st.tuples(TEXTS, st.sampled_from(["positive", "negative"])), min_size=1),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    written_in=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_whatever_is_written_well_is_read_back(rows, delimiter, quoting, line_end, written_in):
    # The writer forgets to quote a line end that is not its own.
    assume(quoting != csv.QUOTE_MINIMAL or not any("\r" in text for text, _ in rows))
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerows([("text", "label"), *rows])
    table = read_table(sink.getvalue().encode(written_in))
    assert table.refused == ()
    assert (table.delimiter, table.label) == (delimiter, "label")
    assert table.text == (None if tables.are_no_texts(table.frame["text"]) else "text")
    assert table.frame["text"].tolist() == [text for text, _ in rows]
    assert table.frame["label"].tolist() == [label for _, label in rows]


@given(
    st.one_of(
        st.binary(max_size=300),
        st.text(st.sampled_from('ab,;\t"\\\n\r 01{}[]:'), max_size=120).map(str.encode),
        st.binary(max_size=60).map(gzip.compress),
        st.binary(max_size=60).map(lambda raw: b"PAR1" + raw + b"PAR1"),
        st.binary(max_size=60).map(lambda raw: b'{"text": "' + raw + b'"}\n{"text": 1}'),
    ),
    st.sampled_from(["t.csv", "t.jsonl", "t.txt", "t.parquet", ""]),
)
def test_no_bytes_break_it(raw, name):
    table = or_sentence(lambda: read_table(raw, name))
    if table is None:
        return
    rows = [*table.frame.index, *(refusal.row for refusal in table.refused)]
    assert sorted(rows) == list(range(len(rows)))
    labelled = or_sentence(lambda: label_rows(table))
    if labelled is not None:
        assert len(labelled.frame) + labelled.left_out + len(labelled.refused) == len(rows)


def or_sentence(work: Callable[[], Result]) -> Result | None:
    """What the work gives, or None where it refuses in a sentence."""
    refusal = ""
    try:
        return work()
    except ValueError as error:
        if type(error) not in (UserError, Question):  # UnicodeError and others that nobody wrote
            raise
        refusal = str(error)
    assert refusal.endswith(".")
    assert "\n" not in refusal
    return None


def test_the_example_is_a_table_that_needs_no_question():
    table = read_table(ROOT / "assets" / "example_tweets.csv")
    labelled = label_rows(table)
    assert (labelled.positive, labelled.negative) == (30, 30)
    assert (labelled.refused, labelled.duplicates, labelled.left_out) == ((), 0, 0)
