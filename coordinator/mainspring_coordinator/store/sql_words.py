"""The words of the journal's SQL, for MySQL and for SQLite.

On MySQL the journal is the hot path, and building a statement is most of what it costs us. So statements are put together here as
bytes, with literals that this module escapes and that nobody else may make. That is safe because each of our sessions sets a
`sql_mode` without NO_BACKSLASH_ESCAPES and utf8mb4 as its character set, in which no character hides a quote or a backslash: within
quotes only these two need an escape.

On SQLite there is no wire: the same shapes become `executemany` with parameters.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, Final

from mainspring.limits import statement_bytes_max, statement_rows_max
from mainspring_coordinator.engine.rows import NodesCopied
from mainspring_coordinator.store.shapes import Mode, Shape, TableWrite, Values, copied_columns
from mainspring_coordinator.store.tables import metadata

_deletes: Final = frozenset({Mode.DELETE, Mode.DELETE_UP_TO, Mode.DELETE_UNUSED})
_updates_a_statement_max: Final = 50  # each row is looked for among all of its statement


@lru_cache(maxsize=16_384)
def text_literal(text: str) -> bytes:
    """Return a string as a MySQL literal."""
    return b"'" + text.encode().replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"


def bytes_literal(data: bytes | None) -> bytes:
    """Return bytes as a MySQL literal that no character set applies to."""
    if data is None:
        return b"NULL"
    return b"_binary'" + data.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"


class RowTooLargeError(Exception):
    """One row is larger than the server's largest packet."""

    def __init__(self, size: int, packet_bytes_max: int) -> None:
        super().__init__(f"a row takes {size} bytes, the server's max_allowed_packet is {packet_bytes_max}; raise it")


class MysqlWords:
    """How rows of one shape are written on MySQL and MariaDB."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        columns = (*shape.keys, *shape.columns)
        kinds = [_literal_of(shape.table, column) for column in columns]
        self._literals: list[tuple[int, Callable[[Any], bytes]]] = [
            (at, literal) for at, literal in enumerate(kinds) if literal
        ]
        self._row = b"(" + b",".join(b"%b" if literal else b"%d" for literal in kinds) + b")"
        self._head = f"INSERT INTO {shape.table} ({','.join(columns)}) VALUES ".encode()  # noqa: S608  # names of our own tables
        self._tail = _mysql_tail(shape).encode()

    def statements(self, rows: Sequence[Values], packet_bytes_max: int) -> Iterator[tuple[bytes, int]]:
        """Yield statements that write these rows, each with the number of its rows, split below every bound."""
        if self.shape.mode in {Mode.UPDATE_IF_THERE, *_deletes}:
            yield from self._updates(rows)
            return
        columns: list[Iterable[Any]] = list(zip(*rows, strict=True))
        for at, literal in self._literals:
            columns[at] = [literal(value) for value in columns[at]]
        row_format = self._row
        texts = [row_format % row for row in zip(*columns, strict=True)]
        room = len(self._head) + len(self._tail) + 64
        for part in _split(texts, min(statement_bytes_max, packet_bytes_max - room)):
            size = room + sum(map(len, part)) + len(part)
            if size > packet_bytes_max:
                raise RowTooLargeError(size, packet_bytes_max)
            yield self._head + b",".join(part) + self._tail, len(part)

    def _updates(self, rows: Sequence[Values]) -> Iterator[tuple[bytes, int]]:
        """Yield `UPDATE … SET c = CASE WHEN key THEN value … END WHERE keys`: an upsert could make a row that must not be.

        Or, where rows are to go, `DELETE … WHERE keys …`.
        """
        keys, columns = self.shape.keys, self.shape.columns
        literals = [_literal_of(self.shape.table, column) or _number_literal for column in (*keys, *columns)]
        for start in range(0, len(rows), _updates_a_statement_max):
            part = [
                [literal(value) for literal, value in zip(literals, row, strict=True)]
                for row in rows[start : start + _updates_a_statement_max]
            ]
            wheres = [_where(self.shape, row[: len(keys)]) for row in part]
            sets = [
                b"%b=CASE %b END"
                % (
                    column.encode(),
                    b" ".join(b"WHEN %b THEN %b" % (where, row[at]) for where, row in zip(wheres, part, strict=True)),
                )
                for at, column in enumerate(columns, len(keys))
            ]
            head = f"UPDATE {self.shape.table} SET ".encode()  # noqa: S608  # as above
            if self.shape.mode in _deletes:
                head = f"DELETE FROM {self.shape.table}".encode()  # noqa: S608  # as above
            yield head + b",".join(sets) + b" WHERE " + b" OR ".join(wheres), len(part)


def _where(shape: Shape, values: Sequence[bytes]) -> bytes:
    """Return which rows are meant, from the keys' literals or marks."""
    keys = [(key.encode(), value) for key, value in zip(shape.keys, values, strict=True)]
    same = [b"%b=%b" % key for key in keys]
    if shape.mode is Mode.DELETE_UP_TO:
        # Not `(a,b)<=(x,y)`, for which MySQL would look at all rows of the first key, each time.
        ends = [b"%b<%b" % key for key in keys[1:-1]] + [b"%b<=%b" % keys[-1]]
        ranges = [b"(" + b" AND ".join([*same[1 : 1 + at], end]) + b")" for at, end in enumerate(ends)]
        return b"(" + same[0] + b" AND (" + b" OR ".join(ranges) + b"))"
    if shape.mode is Mode.DELETE_UNUSED:
        same.append(b"(SELECT 1 FROM workflows WHERE " + b" AND ".join(same) + b" LIMIT 1) IS NULL")  # as above
    return b"(" + b" AND ".join(same) + b")"


def _literal_of(table: str, column: str) -> Callable[[Any], bytes] | None:
    """Return what makes a literal of this column's values; None: they are whole numbers."""
    kind = metadata.tables[table].columns[column].type.python_type
    if kind is str:
        return text_literal
    return bytes_literal if kind is bytes else None


def _number_literal(number: int) -> bytes:
    return b"%d" % number


def _split(texts: Sequence[bytes], bytes_max: int) -> Iterator[Sequence[bytes]]:
    start = size = 0
    for at, text in enumerate(texts):
        if at > start and (size + len(text) > bytes_max or at - start >= statement_rows_max):
            yield texts[start:at]
            start, size = at, 0
        size += len(text) + 1
    if start < len(texts):
        yield texts[start:]


def _mysql_tail(shape: Shape) -> str:
    match shape.mode:
        case Mode.INSERT | Mode.UPDATE_IF_THERE | Mode.DELETE | Mode.DELETE_UP_TO | Mode.DELETE_UNUSED:
            return ""
        case Mode.INSERT_ONCE:
            # Not INSERT IGNORE, which would let any other error of the row pass too.
            return f" ON DUPLICATE KEY UPDATE {shape.keys[0]}={shape.table}.{shape.keys[0]}"
        case Mode.UPSERT | Mode.UPDATE:
            sets = [
                *(f"{column}=VALUES({column})" for column in shape.columns),
                *(_reset(shape, column) for column in shape.resets),
            ]
            return f" ON DUPLICATE KEY UPDATE {','.join(sets)}"


def _reset(shape: Shape, column: str) -> str:
    return f"{column}={'NULL' if metadata.tables[shape.table].columns[column].nullable else '0'}"


@cache
def mysql_words(shape: Shape) -> MysqlWords:
    """Return the words of a shape; there are few shapes."""
    return MysqlWords(shape)


@cache
def sqlite_words(shape: Shape) -> str:
    """Return the statement that writes one row of a shape on SQLite."""
    columns = (*shape.keys, *shape.columns)
    if shape.mode in {Mode.UPDATE, Mode.UPDATE_IF_THERE}:
        sets = ",".join(f"{column}=?{at}" for at, column in enumerate(shape.columns, len(shape.keys) + 1))
        wheres = " AND ".join(f"{column}=?{at}" for at, column in enumerate(shape.keys, 1))
        return f"UPDATE {shape.table} SET {sets} WHERE {wheres}"  # noqa: S608  # names of our own tables and columns
    if shape.mode in _deletes:
        where = _where(shape, [b"?%d" % at for at in range(1, len(shape.keys) + 1)]).decode()
        return f"DELETE FROM {shape.table} WHERE {where}"  # noqa: S608  # as above
    marks = ",".join("?" * len(columns))
    insert = f"INSERT INTO {shape.table} ({','.join(columns)}) VALUES ({marks})"  # noqa: S608  # as above
    match shape.mode:
        case Mode.INSERT:
            return insert
        case Mode.INSERT_ONCE:
            return f"{insert} ON CONFLICT({','.join(shape.keys)}) DO NOTHING"
        case _:
            sets = ",".join(
                [
                    *(f"{column}=excluded.{column}" for column in shape.columns),
                    *(_reset(shape, column) for column in shape.resets),
                ]
            )
            return f"{insert} ON CONFLICT({','.join(shape.keys)}) DO UPDATE SET {sets}"


def mysql_copy(copied: NodesCopied) -> bytes:
    """Return the statement that copies rows on MySQL and MariaDB."""
    names = [text_literal(name).decode() for name in (copied.workflow_id, copied.source)]
    return (_copy(copied, *names) + " ON DUPLICATE KEY UPDATE status=nodes.status").encode()


def sqlite_copy(copied: NodesCopied) -> str:
    """Return the statement that copies rows on SQLite; its parameters are the ids of the new and of the old workflow."""
    return _copy(copied, "?1", "?2") + " ON CONFLICT(workflow_id,node,instance) DO NOTHING"


def _copy(copied: NodesCopied, new: str, old: str) -> str:
    columns = ",".join(copied_columns)
    beyond = f"(node,instance)>({copied.after[0]},{copied.after[1]}) AND (node,instance)<=({copied.until[0]},{copied.until[1]})"
    if copied.after[0] == copied.until[0]:
        # Within a wide map: the primary key's range, which the comparison of pairs would not be.
        beyond = f"instance>{copied.after[1]} AND instance<={copied.until[1]}"
    return (
        f"INSERT INTO nodes (workflow_id,version,node,instance,{columns}) SELECT {new},1,node,instance,{columns} FROM nodes AS source"  # noqa: S608  # names of our own columns, numbers
        f" WHERE workflow_id={old} AND node IN ({','.join(map(str, copied.nodes))}) AND {beyond}"
    )


def is_short(write: TableWrite, affected: int) -> bool:
    """Tell whether fewer rows were there than a write says; `affected` as `affected_by_updates` counts."""
    return write.shape.mode is Mode.UPDATE and affected != affected_by_updates(len(write.rows))


def affected_by_updates(rows: int) -> int:
    """Return how many rows MySQL says an upsert affects that updates so many."""
    return 2 * rows
