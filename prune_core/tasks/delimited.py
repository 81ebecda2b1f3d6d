"""Rows of a text file with separators: CSV with quotes (RFC 4180), TSV with or without, as the file itself shows.

Nothing here guesses in silence: a row is what one writer can have meant, or the file is refused with its line.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from prune_core import InputError

MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))  # in this order: a mark of UTF-32 begins with one of UTF-16
CLOSED = re.compile(r'(?:[^"]++|"")*+"')  # what is left of a cell in quotes, and the quote that closes it
UNQUOTED = "every line was read as a row, and quotes as text"
QUOTED = "double quotes around cells were taken off"
ROWS_INSIDE, COMMAS = 3, 5  # lines in one cell with as many separators as a row; cells quoted for a comma alone
OTHERWISE = "if it is text, save the file as parquet"
# GLUE's pairs: some of its TSV files are as a program writes quotes, and everyone reads them with the quotes as text
GLUE_PAIRS = ({"sentence1", "sentence2"}, {"question1", "question2"}, {"premise", "hypothesis"},
              {"question", "sentence"})


class Record(NamedTuple):
    """A row: the line it begins in, its cells, which of them stood in quotes (None: none), and those over many lines.

    `inside`: (cells before it, line it begins in, its lines as they are).
    """

    line: int
    cells: list[str]
    quoted: list[bool] | None
    inside: list[tuple[int, int, list[str]]]


def lines(path: Path) -> Iterator[str]:
    """Lines with their ends: "\\n", or "\\r" where there is no other. A "\\r" within a line is text. Raises InputError.

    UTF-8, or UTF-16 and UTF-32 with their mark.
    """
    where = f"{path.name!r}"
    with open(path, "rb") as file:
        mark = file.read(4)
        if wide := next((name for known, name in MARKS if mark.startswith(known)), ""):
            file.seek(0)
            try:
                yield from io.TextIOWrapper(file, wide, newline="\n")
            except UnicodeError:
                raise InputError(f"{where} begins as {wide.upper()} and is not; save the file as UTF-8") from None
            return
        file.seek(3 if mark.startswith(codecs.BOM_UTF8) else 0)
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{where}: line {number}, byte {error.start} is not UTF-8; "
                                 "save the file as UTF-8") from None
            if number == 1 and line[-1] != "\n" and "\r" in line:
                yield from re.findall(r"[^\r]*\r|[^\r]+", line)
            else:
                yield line


def body(line: str) -> str:
    """A line without its end."""
    return line[:-2] if line.endswith("\r\n") else line[:-1] if line.endswith(("\n", "\r")) else line


def plain(path: Path, separator: str) -> Iterator[Record]:
    """Every line that is not empty as a row; quotes are text. Raises InputError."""
    for number, line in enumerate(lines(path), 1):
        if text := body(line):
            yield Record(number, text.split(separator), None, [])


def quoted(path: Path, separator: str) -> Iterator[Record]:
    """Rows whose cells may stand in double quotes, doubled inside. Raises InputError where a quote does not close."""
    source = enumerate(lines(path), 1)
    for number, line in source:
        text = body(line)
        if '"' in text:
            yield _in_quotes(path, separator, number, line, source)
        elif text:
            yield Record(number, text.split(separator), None, [])


def _in_quotes(path: Path, separator: str, number: int, line: str, source: Iterator[tuple[int, str]]) -> Record:
    """The row that begins with this line; takes from `source` the lines that it goes on in."""
    first, at, record = number, 0, Record(number, [], [], [])
    wrong = f"{path.name!r} cannot be read as {path.suffix.lower()[1:]}: "
    while at is not None:
        opens = line.startswith('"', at)
        if opens:
            opened, start, pieces = number, at + 1, []
            while not (closed := CLOSED.match(line, start)):
                pieces.append(line[start:])
                number, line = next(source, (0, ""))
                if not number:
                    raise InputError(f"{wrong}the quote that opens in line {opened} is never closed; "
                                     "a quote that is text is doubled, its cell in quotes")
                start = 0
            pieces.append(line[start:closed.end() - 1])
            cell, text, end = "".join(pieces).replace('""', '"'), body(line), closed.end()
            if len(pieces) > 1:
                record.inside.append((len(record.cells), opened, pieces))
            if end < len(text) and text[end] != separator:
                raise InputError(f"{wrong}line {number} goes on with {text[end:end + 20]!r} after a quote that closes; "
                                 "a quote that is text is doubled, its cell in quotes")
            at = end + 1 if end < len(text) else None
        else:
            text = body(line)
            end = text.find(separator, at)
            cell, at = (text[at:end], end + 1) if end >= 0 else (text[at:], None)
        record.cells.append(cell)
        record.quoted.append(opens)
    return record._replace(line=first)


def listed(names: Iterable[str], most: int = 160) -> str:
    """Names in one line, whatever is in them."""
    return " ".join(", ".join(names).split())[:most]


# ---------------------------------------------------------------- names and rows


def names(path: Path, separator: str) -> list[str]:
    """The cells of the first line that is not empty; [] where there is none. Raises InputError."""
    reading = quoted if separator == "," or _begins_quoted(path) else plain
    head = next((record.cells for record in reading(path, separator)), [])
    if any(set(name) & {"\n", "\r", "\0"} for name in head):
        raise InputError(f"{path.name!r}: the names in its first line hold line ends or zero bytes; "
                         "save the file as UTF-8, with line ends of one kind")
    return head


def _begins_quoted(path: Path) -> bool:
    """Whether a name of a column stands in quotes: then all of the file may."""
    first = next((text for line in lines(path) if (text := body(line))), "")
    return any(name.startswith('"') for name in first.split("\t"))


def rows(path: Path, separator: str, head: Sequence[str], wanted: Sequence[int],
         label: int) -> tuple[list[tuple[str, ...]], str]:
    """(the wanted cells of every row below the names, how it was read where that was to be decided).

    `label`: where the column of labels stands. Raises InputError.
    """
    if separator == ",":
        return _all(path, quoted, separator, head, wanted, label), ""
    declared = _begins_quoted(path)
    opening, fault = _lines_alone(path, separator, head)
    if not declared and not opening:
        if fault:
            raise InputError(f"{path.name!r}: {fault}")
        return _all(path, plain, separator, head, wanted, label), ""
    reading = quoted if declared else _decided(path, separator, head, label, fault)
    return _all(path, reading, separator, head, wanted, label), QUOTED if reading is quoted else UNQUOTED


def _all(path: Path, reading, separator: str, head: Sequence[str], wanted: Sequence[int],
         label: int) -> list[tuple[str, ...]]:
    """The wanted cells of every row, read this way; raises InputError for the first row that does not fit."""
    survey, pick, kept = Survey(len(head), label, separator), itemgetter(*wanted), []
    for number, record in enumerate(reading(path, separator)):
        if number:
            survey.see(record)
            if survey.fault:
                break
            kept.append(pick(record.cells))
    if fault := survey.fault or survey.rows_inside():
        raise InputError(f"{path.name!r}: {fault}")
    if reading is plain:
        _one_spelling(survey.labels, path)
    return kept


def _one_spelling(labels: set[str], path: Path) -> None:
    """Raises InputError where a label stands with quotes and without."""
    for value in sorted(labels):
        if len(value) > 2 and value[0] == value[-1] == '"' and value[1:-1] in labels:
            raise InputError(f"{path.name!r}: label {value[1:-1]!r} stands in quotes and without; "
                             "write it in one way, or save the file as CSV")


def _lines_alone(path: Path, separator: str, head: Sequence[str]) -> tuple[bool, str]:
    """(whether a cell begins with a quote, what is wrong where every line is a row: '' for nothing)."""
    opening, fault = False, ""
    for record in plain(path, separator):
        if not fault and len(record.cells) != len(head):
            fault = _miscounted(record, len(head), separator)
        opening = opening or any(cell.startswith('"') for cell in record.cells)
        if opening and fault:
            break
    return opening, fault


def _miscounted(record: Record, width: int, separator: str) -> str:
    advice = ("put text that has the separator in it between double quotes" if separator == ","
              else "text that has tabs or line ends in it needs CSV or parquet")
    return f"line {record.line} has {len(record.cells)} cells, the first one {width}; {advice}"


def _decided(path: Path, separator: str, head: Sequence[str], label: int, fault: str):
    """`plain` or `quoted`: what the lines alone, the quotes and a writer's habits allow. Raises InputError."""
    survey = Survey(len(head), label, separator)
    try:
        for number, record in enumerate(quoted(path, separator)):
            if number:
                survey.see(record)
    except InputError as error:
        survey.fault = survey.fault or str(error).partition(": ")[2]
    wrong = survey.fault or survey.rows_inside()
    if fault and wrong:
        raise InputError(f"{path.name!r}: {fault} (and with quotes taken off: {wrong})"[:380])
    if wrong or fault:
        return plain if wrong else quoted
    if survey.whole_columns() or survey.as_needed():
        glue = any(pair <= set(head) for pair in GLUE_PAIRS) and not survey.over_lines and not survey.whole_columns()
        return plain if glue else quoted
    if survey.by_comma and not survey.bare_comma and not survey.bare_quote and not survey.needless:
        raise InputError(f"{path.name!r}: line {survey.by_comma[0]} has a cell in quotes, which may be text or not; "
                         "save the file as CSV, or as parquet")
    return plain


@dataclass
class Survey:
    """What rows in quotes show: whether they fit, whether one holds others, and whether a program wrote them."""

    width: int
    label: int
    separator: str
    fault: str = ""
    labels: set[str] = field(default_factory=set)
    inside: dict[str, int] = field(default_factory=dict)  # what stands where a row in a cell has its label -> its line
    crowd: int = 0  # a line after which many follow in one cell that have the separators of a row
    rows: int = 0
    over_lines: int = 0  # rows that take several lines
    in_column: list[int] = field(default_factory=list)  # cells in quotes, column by column
    needless: int = 0  # cells in quotes for nothing in them
    by_comma: list[int] = field(default_factory=list)  # lines of cells that are in quotes for a comma alone
    bare_quote: bool = False  # a cell without quotes around it that has one inside
    bare_comma: bool = False

    def see(self, record: Record) -> None:
        """Take a row into account."""
        if len(record.cells) != self.width:
            self.fault = self.fault or _miscounted(record, self.width, self.separator)
            return
        self.rows += 1
        self.over_lines += bool(record.inside)
        self.labels.add(record.cells[self.label].strip())
        if record.quoted is None:
            self.bare_comma = self.bare_comma or any("," in cell for cell in record.cells)
            return
        self.in_column = [count + one for count, one in zip(self.in_column or [0] * self.width, record.quoted,
                                                            strict=True)]
        for cell, inside in zip(record.cells, record.quoted, strict=True):
            needed, comma = any(mark in cell for mark in ('"', self.separator, "\n", "\r")), "," in cell
            if not inside:
                self.bare_quote, self.bare_comma = self.bare_quote or '"' in cell, self.bare_comma or comma
            elif comma and not needed:
                self.by_comma.append(record.line)
            elif not needed:
                self.needless += 1
        for span in record.inside:
            self._look_inside(*span)

    def _look_inside(self, before: int, line: int, pieces: list[str]) -> None:
        """The lines of a cell that have the separators of a row: what stands in them as label."""
        after, last, alike = self.width - before - 1, len(pieces) - 1, 0
        for number, piece in enumerate(pieces):
            cells = body(piece).split(self.separator)
            left, right = before if number == 0 else 0, after if number == last else 0
            at = self.label - left
            own = (number == 0 and at == 0) or (number == last and at == len(cells) - 1)  # the cell in quotes itself
            if left + len(cells) + right == self.width and 0 <= at < len(cells) and not own:
                self.inside.setdefault(cells[at].strip().strip('"'), line + number)
            alike += 0 < number < last and len(cells) == self.width
        if ROWS_INSIDE <= alike == last - 1:
            self.crowd = self.crowd or line

    def rows_inside(self) -> str:
        """What is wrong where a cell holds lines that look like rows of their own; '' where none does."""
        numbers = all(map(_is_number, self.labels)) if self.inside else False
        fractions = numbers and any(float(value) % 1 for value in self.labels)
        found = [line for value, line in self.inside.items()
                 if value and value in self.labels or fractions and _is_number(value)]
        if line := min(found, default=0) or self.crowd:
            return (f"line {line} looks like a row of its own inside a cell in quotes, so a quote may be missing or "
                    f"too many; {OTHERWISE}")
        return ""

    def whole_columns(self) -> bool:
        """Whether all cells of a column are in quotes, or none."""
        return not self.bare_quote and all(count in (0, self.rows) for count in self.in_column)

    def as_needed(self) -> bool:
        """Whether all is in quotes that needs it, and nothing else: as pandas has it, or Excel, which counts commas."""
        excel = not self.bare_comma and len(self.by_comma) >= COMMAS
        return not self.bare_quote and not self.needless and (excel or not self.by_comma)


def _is_number(value: str) -> bool:
    try:
        return float(value) - float(value) == 0
    except ValueError:
        return False
