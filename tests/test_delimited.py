"""Rows of CSV and TSV: what a program wrote is read back exactly, or refused; what was never quoted is never cut."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prune_core import InputError
from prune_core.tasks import delimited, table_files

PLAIN = [(f"sentence number {row}", "no yes".split()[row % 2]) for row in range(40)]


def written(folder: Path, text: str | bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def unquoted(rows, head: str = "text\tlabel", end: str = "\n") -> str:
    """TSV as GLUE has it."""
    return end.join([head, *("\t".join(map(str, row)) for row in rows), ""])


def texts(path: Path, **more) -> list[str]:
    return [text for text, in table_files.read(path, **more).texts]


def refused(path: Path, **more) -> str:
    with pytest.raises(InputError) as raised:
        table_files.read(path, **more)
    told = str(raised.value)
    assert "\n" not in told and path.name in told and len(told) < 400
    return told


# ---------------------------------------------------------------- what programs write comes back


def excel(rows, separator: str) -> str:
    """As Excel writes: in quotes is what has quotes, separators, line ends or commas."""
    def cell(value: str) -> str:
        return '"' + value.replace('"', '""') + '"' if set(value) & {'"', ",", "\t", "\n", "\r"} else value

    return "".join(separator.join(map(cell, row)) + "\r\n" for row in rows)


def by_csv(rows, separator: str, quoting: int, end: str) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
    return file.getvalue()


def by_pandas(rows, separator: str) -> str:
    return pd.DataFrame(rows[1:], columns=rows[0]).to_csv(index=False, sep=separator, lineterminator="\n")


WRITERS = {"excel": excel, "pandas": by_pandas,
           "minimal": lambda rows, separator: by_csv(rows, separator, csv.QUOTE_MINIMAL, "\r\n"),
           "all": lambda rows, separator: by_csv(rows, separator, csv.QUOTE_ALL, "\n")}
TRAPS = ['"', '""', "\t", ",", "\n", "\r\n", "\r", ";", " ", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\0",
         "\ufeff", "a", "NA", "null", "#", "'", "\\", "é", "数", "🙂", "no", "yes"]
TEXTS = st.one_of(st.lists(st.sampled_from(TRAPS), min_size=1, max_size=7).map("".join),
                  st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))


def a_row_inside(text: str) -> bool:
    """Whether a text holds what a stray quote would: lines with a tab and a label, or many of them with a tab."""
    lines = text.split("\n")
    labels = any("\t" in line and {cell.strip().strip('"') for cell in line.split("\t")} & {"no", "yes"}
                 for line in lines)
    return len(lines) > 1 and (labels or len(lines) >= 2 + delimited.ROWS_INSIDE)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow,
                                                                  HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=6), st.sampled_from(sorted(WRITERS)), st.sampled_from(["csv", "tsv"]),
       st.booleans())
def test_any_text_that_a_program_wrote_comes_back_or_is_refused(tmp_path, given, writer, kind, last):
    """The text first or last in its row; a label below, in words."""
    separator = "," if kind == "csv" else "\t"
    assume(all(text.strip() for text in given))
    assume(kind == "csv" or not any(map(a_row_inside, given)))  # what that is taken for: see the tests below
    assume(not last or not any(text.endswith("\r") for text in given))  # unquoted by csv, then it is a line's end
    rows = [(text, label) for text, label in [*((text, "no") for text in given), *PLAIN]]
    table = [("text", "label"), *rows] if not last else [("label", "text"), *((label, text) for text, label in rows)]
    path = written(tmp_path, WRITERS[writer](table, separator), f"mine.{kind}")
    try:
        data = table_files.read(path)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert data.texts == [(text,) for text, _ in rows]
    assert [data.classes[label] for label in data.labels] == [label for _, label in rows]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("text", [
    'He said "yes".', '"Yes," he said', '""', "a\tb", "a, b", "one\ntwo", "one\r\ntwo", "three\n\n\nlines", " a ", "NA",
    "x\x0by\x0cz\x1cw\x85v\u2028u", "\ufeffmark", "a\0b", "# not a comment", "'", "\\",
    "first\nsecond, or third\nlast"])
def test_awkward_text_comes_back_exactly_from_every_program(tmp_path, kind, writer, text):
    rows = [(text, "yes"), *PLAIN, (text, "no"), ("a, b", "no"), *((f"{row}, {row}", "no") for row in range(9))]
    content = WRITERS[writer]([("text", "label"), *rows], "," if kind == "csv" else "\t")
    path = written(tmp_path, content, f"mine.{kind}")
    assert texts(path) == [text for text, _ in rows]


@pytest.mark.parametrize("text", ['"', '"open', 'shut"', '"both"', 'in "the" middle', '"two" and "two"', '"one", two',
                                  "a\rb", "x\x0by\x0cz\x1cw\x85v\u2028u", "\0", "'", " a "])
def test_text_of_a_tsv_that_was_never_quoted_comes_back_exactly(tmp_path, text):
    rows = [*PLAIN[:5], (text, "no"), *PLAIN, ('a "b" c', "no"), (text, "yes")]
    for end in ("\n", "\r\n"):
        path = written(tmp_path, unquoted(rows, end=end), "mine.tsv")
        assert texts(path) == [one for one, _ in rows]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow,
                                                                  HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_any_text_of_a_tsv_that_was_never_quoted_comes_back_exactly(tmp_path, given, end):
    """Where one quote stands as no program would leave it, none of them is more than text."""
    given = [text.replace("\t", " ").replace("\n", " ") for text in given]
    assume(all(text.strip() for text in given))
    rows = [*PLAIN, ('a "b" c', "no"), *((text, "yes") for text in given)]
    assert texts(written(tmp_path, unquoted(rows, end=end), "mine.tsv")) == [text for text, _ in rows]


# ---------------------------------------------------------------- quotes in TSV


@pytest.mark.parametrize("first, last", [(4, 5), (4, 9), (0, 39), (38, 39)])
@pytest.mark.parametrize("label_first", [False, True])
def test_a_quote_that_closes_lines_later_swallows_no_row_of_a_tsv(tmp_path, first, last, label_first):
    rows = [('"' * (row == first) + text + '"' * (row == last), label) for row, (text, label) in enumerate(PLAIN)]
    turned = [row[::-1] if label_first else row for row in rows]
    path = written(tmp_path, unquoted(turned, "label\ttext" if label_first else "text\tlabel"), "mine.tsv")
    data = table_files.read(path)
    assert data.texts == [(text,) for text, _ in rows]
    assert "every line was read as a row" in data.note


def test_how_a_tsv_was_read_is_told_only_where_it_was_to_be_decided(tmp_path):
    assert table_files.read(written(tmp_path, unquoted(PLAIN), "mine.tsv")).note == ""
    quoted = by_pandas([("text", "label"), *PLAIN, ('a "b"', "no")], "\t")
    assert "quotes around cells were taken off" in table_files.read(written(tmp_path, quoted, "mine.tsv")).note


def test_one_cell_in_quotes_for_a_comma_may_be_either(tmp_path):
    """Excel would have written it so, and a person that quotes what someone said."""
    path = written(tmp_path, unquoted([*PLAIN, ('"Yes, it was."', "no")]), "mine.tsv")
    assert "line 42 has a cell in quotes, which may be text or not; save the file as CSV" in refused(path)


def test_glues_pairs_keep_the_quotes_that_their_files_have(tmp_path):
    """Some of GLUE's files look as a program writes quotes; all read them as they are, and so does the hub's copy."""
    rows = [(f'"the ""{row}"""' if row % 3 == 0 else "the claim", "a claim", row % 2) for row in range(30)]
    pairs = table_files.read(written(tmp_path, unquoted(rows, "sentence1\tsentence2\tlabel"), "rte.tsv"))
    assert pairs.texts[3] == ('"the ""3"""', "a claim")
    own = table_files.read(written(tmp_path, unquoted(rows, "one\ttwo\tlabel"), "own.tsv"))
    assert own.texts[3] == ('the "3"', "a claim")


def test_names_in_quotes_say_that_cells_are(tmp_path):
    """As R writes them; where it escapes a quote with a backslash, that is no TSV."""
    rows = [(f'"{text}"', f'"{label}"') for text, label in PLAIN]
    path = written(tmp_path, unquoted(rows, '"text"\t"label"'), "mine.tsv")
    assert texts(path) == [text for text, _ in PLAIN] and table_files.names(path) == ["text", "label"]
    path = written(tmp_path, unquoted([*rows, ('"a \\"b\\" c"', '"no"')], '"text"\t"label"'), "mine.tsv")
    assert "line 42 goes on with" in refused(path)


def test_a_label_in_quotes_and_without(tmp_path):
    rows = [*PLAIN, ("one more", '"yes"'), ('a "b" c', "no")]
    assert "label 'yes' stands in quotes and without" in refused(written(tmp_path, unquoted(rows), "mine.tsv"))


# ---------------------------------------------------------------- rows that hide in a cell


@pytest.mark.parametrize("first, last", [(4, 5), (4, 9), (0, 39)])
@pytest.mark.parametrize("label_first", [False, True])
def test_a_stray_quote_that_swallows_rows_of_a_csv_is_refused(tmp_path, first, last, label_first):
    rows = [('"' * (row == first and not label_first) + text + '"' * (row == last), label)
            for row, (text, label) in enumerate(PLAIN)]
    lines = [f"{label},{chr(34) * (row == first)}{text}" if label_first else f"{text},{label}"
             for row, (text, label) in enumerate(rows)]
    path = written(tmp_path, "\n".join(["label,text" if label_first else "text,label", *lines]), "mine.csv")
    told = refused(path)
    assert "looks like a row of its own inside a cell" in told
    assert last == 39 or f"line {first + 2 + label_first} " in told  # where no row is left, the next line is named


def test_swallowed_rows_with_labels_that_stand_nowhere_else(tmp_path):
    lines = [f"{text},{label}" for text, label in PLAIN] + ['"one,x', "two,x", "three,x", "four,x", 'five",x']
    assert "row of its own" in refused(written(tmp_path, "\n".join(["text,label", *lines]), "mine.csv"))


def test_fractions_are_known_as_labels_wherever_they_stand(tmp_path):
    lines = [f"{text},{row / 7:.3f}" for row, (text, _) in enumerate(PLAIN)] + ['"one,9.25', 'two",9.75']
    assert "line 42 looks like a row" in refused(written(tmp_path, "\n".join(["text,label", *lines]), "mine.csv"))


def test_lines_in_a_cell_are_text_where_none_is_a_row(tmp_path):
    letter = "Dear all,\nthank you, it was fine,\nand so was the soup\n\nyours, me"
    rows = [(letter, "no"), *PLAIN, (letter, "yes")]
    for kind, separator in (("csv", ","), ("tsv", "\t")):
        path = written(tmp_path, by_csv([("text", "label"), *rows], separator, csv.QUOTE_MINIMAL, "\n"), f"mine.{kind}")
        assert texts(path) == [text for text, _ in rows]


def test_a_tsv_that_fits_neither_way_says_why(tmp_path):
    rows = [*PLAIN[:5], ('"open', "yes"), ("a\tb", "no"), ('shut"', "no"), *PLAIN]
    told = refused(written(tmp_path, unquoted(rows), "mine.tsv"))
    assert "line 8 has 3 cells, the first one 2" in told and "looks like a row" in told


# ---------------------------------------------------------------- line ends, marks, encodings


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv"])
@pytest.mark.parametrize("end, encoding", [
    ("\n", "utf-8"), ("\r\n", "utf-8-sig"), ("\r", "utf-8"), ("\r", "utf-8-sig"), ("\n", "utf-16"), ("\r\n", "utf-16"),
    ("\n", "utf-32")])
def test_line_ends_and_encodings_with_a_mark(tmp_path, name, end, encoding):
    separator = "," if name == "mine.csv" else "\t"
    for final in ("", end):
        lines = [separator.join(row) for row in (("text", "label"), *PLAIN)]
        assert texts(written(tmp_path, (end.join(lines) + final).encode(encoding), name)) == [one for one, _ in PLAIN]


def test_line_ends_of_two_kinds_and_lines_with_nothing_in_them(tmp_path):
    lines = [f"{text},{label}" + ("\r\n" if row % 3 else "\n") + "\n" * (row % 5 == 0)
             for row, (text, label) in enumerate(PLAIN)]
    assert texts(written(tmp_path, "\ntext,label\r\n" + "".join(lines), "mine.csv")) == [text for text, _ in PLAIN]


@pytest.mark.parametrize("content, words", [
    (b"text,label\na,1\ncaf\xe9,1\n", "line 3, byte 3 is not UTF-8"),
    ("text,label\na,1\n".encode("utf-16-le"), "save the file as UTF-8"),
    (b"\xff\xfea,b\n\x00", "begins as UTF-16 and is not"),
    (b"text,label\ra,1\rb,0\nc,1\n", "line ends of one kind"),
    (b"text\tlabel\na\t1\n", "separated by tabs: call it .tsv"),
    (b"text|label\na|1\n", "separated by bars"),
    (b"# made by hand\ntext,label\na,1\n", "one column, '# made by hand'"),
    (b"text,label\na,1\n# a comment\n", "line 3 has 1 cells, the first one 2"),
    (b'text,label\n"a" b,1\n', "line 2 goes on with ' b,1' after a quote"),
    (b'text,label\nx,1\n"a,1\nb,0\n', "the quote that opens in line 3 is never closed"),
    (b"text,text\na,1\n", "two columns are called 'text'"),
    (b"\n\n\n", "nothing in it"),
])
def test_what_cannot_be_rows_is_one_line(tmp_path, content, words):
    assert words in refused(written(tmp_path, content, "mine.csv"))


def test_without_names_the_first_line_is_seen_for_a_row(tmp_path):
    for kind, separator in (("csv", ","), ("tsv", "\t")):
        path = written(tmp_path, "\n".join(separator.join(row) for row in PLAIN), f"mine.{kind}")
        assert "Its first line looks like a row" in refused(path)
    named = written(tmp_path, "\n".join(["words,mood", *map(",".join, PLAIN)]), "mine.csv")
    assert "looks like a row" not in refused(named)


def test_cells_of_any_length_and_no_limit_left_behind(tmp_path):
    before, long = csv.field_size_limit(), "many words " * 60_000
    for name, separator in (("mine.csv", ","), ("mine.tsv", "\t")):
        rows = [(long, "yes"), *PLAIN, (f'{long} "{long}"', "no")]
        path = written(tmp_path, by_pandas([("text", "label"), *rows], separator), name)
        assert texts(path) == [text for text, _ in rows]
    assert csv.field_size_limit() == before


def test_a_column_that_only_counts_rows_is_no_text(tmp_path):
    path = tmp_path / "mine.csv"
    pd.DataFrame(PLAIN, columns=["text", "label"]).to_csv(path)
    assert table_files.read(path).columns == ("text",)


def test_records_say_where_they_begin(tmp_path):
    path = written(tmp_path, 'a,b\n"x\ny",1\n\nz,2\n', "mine.csv")
    assert [(record.line, record.cells) for record in delimited.quoted(path, ",")] == [
        (1, ["a", "b"]), (2, ["x\ny", "1"]), (5, ["z", "2"])]
