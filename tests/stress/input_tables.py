"""A fuzz over tables: what was written is what is read, row by row, or it is refused in one line."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from stress.input_judge import LONGEST, Verdict

from prune_core import InputError
from prune_core.tasks import table_files

WORDS = "the a film was fine dull warm cold soup here today and very good naïve 数据 café über Ωmega 🙂".split()
TRAPS = ('"', '""', "\t", ",", "\n", "\r\n", ";", "|", " ", "\x0b", "\x1c", "\x85", "\u2028", "\0", "\ufeff", "NA",
         "null", "#", "'", "\\", "\\n", "=1+1", "nan", "1", "0", "pos", "\xa0", "é", "🙂")
LABELS = ("words", "words", "two words", "three words", "numbers", "numbers", "signs", "stars", "score", "fractions",
          "bools", "missing words", "point nought", "mixed", "long numbers", "zeros before", "one class", "one each",
          "a gap", "nan", "infinite", "exponents", "spaces around")
REFUSED = ("one class", "one each", "a gap", "infinite")  # cannot be labels
FORMS = ("csv", "csv", "csv all", "csv pandas", "csv excel", "tsv", "tsv plain", "tsv plain", "tsv pandas", "tsv excel",
         "parquet", "parquet", "parquet pandas")
NAMED = ((("text",), "label"), (("sentence",), "label"), (("premise", "hypothesis"), "label"),
         (("a b", "c,d"), "label"), (("review",), "stars"), (("Text",), "Class"), (("q1", "q2"), "y"),
         (("satz",), "größe"))
GLUES = ("premise", "hypothesis")


@dataclass
class Written:
    """A file, what was written in it, and how it must end: 'read', 'refused' or 'either'."""

    path: Path
    columns: tuple[str, ...]
    label: str
    texts: list[tuple[str, ...]]
    labels: list
    what: str
    ending: str = "read"
    regression: bool = False
    cut: bool = False
    more: dict[str, list] = field(default_factory=dict)  # other columns


def made(folder: Path, number: int) -> Written:
    """Table `number`, written."""
    chance = random.Random(f"tables {number}")
    columns, label = chance.choice(NAMED)
    gentle, kind, form = chance.random() < 0.6, chance.choice(LABELS), FORMS[number % len(FORMS)]
    if form == "tsv excel" and columns == GLUES:  # read with quotes as text, as GLUE's own files are, and that is said
        columns = ("q1", "q2")
    count = chance.randint(24, 60)
    texts = [tuple(_text(chance, gentle) for _ in columns) for _ in range(count)]
    one = Written(folder / f"table.{form.split()[0]}", columns, label, texts, _labels(kind, count, chance),
                  f"{form}, labels: {kind}{'' if gentle else ', awkward'}", "read" if gentle else "either")
    one.regression = kind == "score"
    if form == "tsv excel":  # a few cells in quotes for a comma alone may be either: refused
        one.ending = "either"
    if kind in REFUSED or kind in ("nan", "mixed", "spaces around", "exponents"):
        one.ending = "refused" if kind in REFUSED else "either"
    if chance.random() < 0.2:
        one.more = {chance.choice(("idx", "id", "", "Unnamed: 0")): list(range(count))}
    if form == "tsv plain":
        one.texts = [tuple(" ".join(text.split()) or "x" for text in row) for row in texts]
    _write(one, form, chance)
    if form.startswith("parquet"):
        if chance.random() < 0.15:
            _damage_bytes(one, chance)
    elif chance.random() < 0.4:
        _damage_text(one, form, chance)
    return one


def _text(chance: random.Random, gentle: bool) -> str:
    words = [chance.choice(WORDS) for _ in range(chance.randint(1, 9))]
    if gentle:
        how = chance.random()
        if how < 0.1 and len(words) > 2:
            words[1] = f"{words[1]},"
        return " ".join(words)
    for _ in range(chance.randint(1, 3)):
        words.insert(chance.randrange(len(words) + 1), chance.choice(TRAPS))
    text = chance.choice(("", " ")).join(words)
    return text if text.strip() else "x"


def _labels(kind: str, count: int, chance: random.Random) -> list:
    """As many labels; at least two of each class, but where it is the point that there are not."""
    def of(values: Sequence) -> list:
        drawn = [*values, *values, *(chance.choice(values) for _ in range(count - 2 * len(values)))]
        chance.shuffle(drawn)
        return drawn

    return {
        "words": lambda: of(("neg", "pos")), "two words": lambda: of(("not good", "very good")),
        "three words": lambda: of(("entailment", "neutral", "größer")), "numbers": lambda: of((0, 1)),
        "signs": lambda: of((-1, 1)), "stars": lambda: of((1, 2, 3, 4, 5)), "score": lambda: of((10, 20, 35, 70, 100)),
        "fractions": lambda: of((0.5, 1.25, 3.0, 4.75)), "bools": lambda: of((True, False)),
        "missing words": lambda: of(("NA", "null", "None")), "point nought": lambda: of((1.0, 2.0, 3.0)),
        "mixed": lambda: of(("1", "two")), "long numbers": lambda: of((2**53 + 1, 2**53, 7)),
        "zeros before": lambda: of(("01", "02")), "one class": lambda: ["pos"] * count,
        "one each": lambda: [f"class {at}" for at in range(count)], "a gap": lambda: [*of(("neg", "pos"))[:-1], ""],
        "nan": lambda: [*of((0.5, 1.5))[:-1], "nan"], "infinite": lambda: [*of((0.5, 1.5))[:-1], "inf"],
        "exponents": lambda: of(("1e-1", "2.5E+0", ".5")), "spaces around": lambda: of((" neg", "pos "))}[kind]()


def _write(one: Written, form: str, chance: random.Random) -> None:
    """The columns, the label first, last or in the middle, in this form."""
    columns: dict[str, list] = dict(one.more)
    columns |= {name: [row[at] for row in one.texts] for at, name in enumerate(one.columns)}
    items = list(columns.items())
    items.insert(chance.randrange(len(items) + 1), (one.label, one.labels))
    if form.startswith("parquet"):
        _parquet(one, dict(items), form, chance)
        return
    separator, how = "," if form.startswith("csv") else "\t", form.partition(" ")[2]
    rows = [[name for name, _ in items], *map(list, zip(*(values for _, values in items), strict=True))]
    end = "\r\n" if how == "excel" else chance.choice(("\n", "\n", "\r\n"))
    if how == "plain":
        text = end.join(separator.join(map(str, row)) for row in rows) + end
    elif how == "pandas":
        text = pd.DataFrame(dict(items)).to_csv(None, sep=separator, index=False, lineterminator=end)
    elif how == "excel":
        text = "".join(separator.join(map(_cell, row)) + "\r\n" for row in rows)
    else:
        file = io.StringIO()
        quoting = csv.QUOTE_ALL if how == "all" else csv.QUOTE_MINIMAL
        csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
        text = file.getvalue()
    if chance.random() < 0.2:
        text = text.removesuffix(end)
    encoding = chance.choice(("utf-8",) * 5 + ("utf-8-sig", "utf-16", "utf-32"))
    one.what += f", {encoding}"
    one.path.write_bytes(text.encode(encoding))


def _cell(value: object) -> str:
    """As Excel writes: in quotes is what has quotes, separators, line ends or commas."""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & {'"', ",", "\t", "\n", "\r"} else text


def _parquet(one: Written, columns: dict[str, list], form: str, chance: random.Random) -> None:
    """With types as pandas, polars and arrow write them."""
    values = columns[one.label]
    if form == "parquet pandas":
        values = [str(value) for value in values] if len({type(value) for value in values}) > 1 else values
        frame = pd.DataFrame(columns | {one.label: values})
        if chance.random() < 0.3:
            frame = frame.astype({one.label: "category"})
        frame = frame.sample(frac=1, random_state=1) if chance.random() < 0.3 else frame
        order = list(frame.index)
        one.texts, one.labels = [one.texts[at] for at in order], [values[at] for at in order]
        frame.to_parquet(one.path)
        return
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        one.labels = values = [str(value) for value in values]
    whole = kinds == {int} and max(values) < 100
    types = {int: [pa.int64()] + ([pa.int8(), pa.int16(), pa.int32(), pa.float64()] if whole else []),
             float: [pa.float64()],
             bool: [pa.bool_()], str: [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]}
    made = pa.array(values, pa.string() if len(kinds) > 1 else chance.choice(types[kinds.pop()]))
    if one.what.split("labels: ")[1].startswith("numbers") and chance.random() < 0.3:
        strange = chance.choice(("decimal", "date", "lists"))
        days = [date(2020, 1, 1) + timedelta(days=value) for value in values]
        made = {"decimal": lambda: pa.array([Decimal(value) for value in values]), "date": lambda: pa.array(days),
                "lists": lambda: pa.array([[value] for value in values])}[strange]()
        one.what, one.ending = f"{one.what} ({strange})", "refused" if strange == "lists" else one.ending
        one.labels = days if strange == "date" else values
    text = chance.choice((pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())))
    columns = {name: pa.array(column, text) if name in one.columns else column for name, column in columns.items()}
    packed = chance.choice(("snappy", "zstd", "none"))
    pq.write_table(pa.table(columns | {one.label: made}), one.path, compression=packed)


# ---------------------------------------------------------------- damage


def _damage_bytes(one: Written, chance: random.Random) -> None:
    content = one.path.read_bytes()
    what, bad = chance.choice((("cut off", content[: chance.randrange(len(content))]), ("noise", chance.randbytes(300)),
                               ("empty", b""), ("text", b"text,label\na,1\n")))
    one.path.write_bytes(bad)
    one.what, one.ending = f"{one.what}; {what}", "refused"


# long: a list of changes
def _damage_text(one: Written, form: str, chance: random.Random) -> None:
    """A file as people and programs leave it; `ending` follows."""
    content = one.path.read_bytes()
    encoding = "utf-16" if "utf-16" in one.what else "utf-32" if "utf-32" in one.what else "utf-8"
    text = content.decode(encoding)
    end = "\r\n" if "\r\n" in text.split("\n", 1)[0] + "\n" else "\n"
    lines = text.split(end)
    at = chance.randrange(1, len(lines) - 1) if len(lines) > 3 else 1
    separator = "," if form.startswith("csv") else "\t"
    what = chance.choice(("cut off", "a cell more", "a cell less", "blank lines", "a comment", "names twice",
                          "no names", "other separator", "latin-1", "carriage returns", "a quote more",
                          "spaces after", "a zip", "trailing"))
    ending = one.ending if what == "blank lines" else "refused" if what in ("names twice", "a zip") else "either"
    if what == "cut off":
        text, one.cut = text[: chance.randrange(1, len(text))], True
    elif what in ("a cell more", "a comment", "a quote more", "spaces after"):
        lines[at] = {"a cell more": lines[at] + separator + "more", "a comment": "# seen by hand",
                     "a quote more": lines[at].replace(" ", ' "', 1), "spaces after": lines[at] + "  "}[what]
    elif what == "a cell less":
        lines[at] = lines[at].rpartition(separator)[0]
    elif what == "blank lines":
        lines = [lines[0], "", "", *lines[1:], "", ""] if "\n" not in "".join(map(str, sum(one.texts, ()))) else lines
    elif what == "names twice":
        lines[0] = separator.join([one.columns[0]] * (lines[0].count(separator) + 1))
    elif what == "no names":
        lines = lines[1:]
    elif what == "other separator":
        other = chance.choice((";", "|", "\t" if separator == "," else ","))
        lines = [line.replace(separator, other) for line in lines]
    elif what == "trailing" and not set("".join(sum(one.texts, ()))) & {"\n", "\r"}:
        lines = [line + separator if line else line for line in lines]
    text = text if what == "cut off" else end.join(lines)
    if what == "carriage returns" and not set("".join(sum(one.texts, ()))) & {"\n", "\r"}:
        text = text.replace(end, "\r")
    bad = text.encode("latin-1", "replace") if what == "latin-1" else text.encode(encoding)
    one.path.write_bytes(b"PK\x03\x04" + bytes(90) if what == "a zip" else bad)
    one.what, one.ending = f"{one.what}; {what}", ending
    one.cut = one.cut or what in ("a quote more", "spaces after", "a comment", "a cell more", "a cell less", "no names")


# ---------------------------------------------------------------- the judge


def verdict(one: Written) -> Verdict:
    """Rows read equal rows written, or one line."""
    try:
        table_files.names(one.path)
        table = table_files.read(one.path, one.columns, one.label, one.regression)
    except InputError as error:
        line = str(error)
        if not line.strip() or "\n" in line or len(line) > LONGEST:
            return Verdict("wrong", words=f"not one clear line: {line[:200]!r}")
        return Verdict("wrong" if one.ending == "read" else "refused", words=f"refused: {line}")
    except Exception as error:
        return Verdict("wrong", words=f"traceback: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if one.ending == "refused":
        return Verdict("wrong", words=f"read what is broken: {len(table.texts)} rows")
    if "a quote more" in one.what and "quotes as text" in table.note:  # as it says
        return Verdict("equal")
    if differ := _differs(one, table):
        return Verdict("wrong", words=differ)
    return Verdict("equal")


def _differs(one: Written, table: table_files.Table) -> str:
    """What was read otherwise than written; ''."""
    if len(table.texts) != len(one.texts) and not one.cut:
        return f"{len(table.texts)} rows read, {len(one.texts)} written"
    odd = [row for row, (ours, theirs) in enumerate(zip(table.texts, one.texts, strict=False)) if ours != theirs]
    if len(odd) > (1 if one.cut else 0):
        return f"row {odd[0]}: {table.texts[odd[0]]!r} read, {one.texts[odd[0]]!r} written"
    read = [table.classes[at] for at in table.labels] if table.classes else [float(at) for at in table.labels]
    for row, (ours, theirs) in enumerate(zip(read, one.labels, strict=False)):
        same = abs(ours - float(theirs)) < 1e-5 * max(1, abs(ours)) if not table.classes else _named(ours, theirs)
        if not same and not (one.cut and row in odd + [len(read) - 1]):
            return f"row {row}: label {ours!r} read, {theirs!r} written"
    return ""


def _named(ours: str, theirs: object) -> bool:
    """Whether a class is called what was written: 1.0 is 1, and spaces around do not count."""
    if isinstance(theirs, float | bool):  # parquet's bools are numbers
        return ours == str(theirs) or ours.lstrip("-").isdecimal() and float(ours) == theirs
    text = str(theirs).strip()
    return ours == text or ours.lstrip("-").isdecimal() and text.lstrip("+-").isdecimal() and int(ours) == int(text)
