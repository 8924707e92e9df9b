"""The ledger: every request, its raw answer, and which records it serves, in one SQLite file (WAL mode).

A request's key is the hash of everything that is sent, so a request that was answered once is never paid for
again, in this run or a later one. The raw answer is committed before it is parsed. A kill at any instant
leaves only the requests in flight without an answer; the next run finds them ``pending``.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from ziya_visual.core.errors import ConfigError, DataError
from ziya_visual.core.files import canonical_json, hash_bytes

LEDGER_FILE = "ledger.sqlite"
NOT_SENT = "not_sent"
STATES = ("pending", "in_flight", "done", "rejected", "failed")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY, body TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending',
    answer TEXT, finish_reason TEXT, reason TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_state ON requests (state);
CREATE TABLE IF NOT EXISTS plans (  -- request:  the rowid of requests
    record TEXT NOT NULL, round INTEGER NOT NULL, request INTEGER NOT NULL, line INTEGER NOT NULL,
    lines INTEGER NOT NULL, PRIMARY KEY (record, round)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, state TEXT NOT NULL);
"""
_OUTCOME = "key, state, answer, finish_reason, prompt_tokens, completion_tokens, seconds, attempts, reason"
_AT_ONCE = 500  # values in one IN (...)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended.

    Of ``STATES``, ``rejected`` was refused for good, and ``failed`` was given up. ``answer`` is the raw text,
    ``finish_reason`` the endpoint's own word, ``seconds`` the time over all attempts, and ``reason`` why
    there is no usable answer.
    """

    key: str
    state: str
    answer: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    attempts: int = 0
    reason: str | None = None

    @property
    def missing(self) -> str | None:
        """Return why there is no answer, as a reason for a report, or None if there is one."""
        if self.state in ("pending", "in_flight"):
            return f"{NOT_SENT}: budget"
        return f"endpoint_{self.state}: {self.reason}" if self.answer is None else None

    @property
    def unusable(self) -> str | None:
        """Return why there is no complete answer, or None if there is one."""
        return self.missing or ("truncated" if self.finish_reason == "length" else None)


class Ask(NamedTuple):
    """A record and the request that serves it in a round, from line ``line`` of the request's ``lines``."""

    record: str
    round: int
    request: str
    line: int
    lines: int


class Ledger:
    """One open ledger, locked: a second run is refused until this one closes it or its process ends."""

    def __init__(self, folder: Path) -> None:
        """Open or create ``folder/ledger.sqlite``; requests that a dead run left in flight are pending again.

        Raises:
            ConfigError: Another run holds this ledger.
            DataError: The file is not an SQLite database.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LEDGER_FILE
        self._lock = FileLock(folder / f"{LEDGER_FILE}.lock", blocking=False, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            message = f"{self.path}: another forge run uses this ledger; wait for it or choose another --out"
            raise ConfigError(message) from error
        self._db = sqlite3.connect(self.path, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-131072")  # 128 MB: keys are random, and so are their pages
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self.close()
            message = f"{self.path}: not a ledger ({error}); move it away or choose another --out"
            raise DataError(message) from error
        self._db.execute("UPDATE requests SET state = 'pending' WHERE state IN ('in_flight', 'failed')")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release the lock."""
        self._db.close()
        self._lock.release()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything written in the block at its end, or nothing; blocks may be nested."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add(self, bodies: Iterable[Mapping[str, Any]]) -> list[str]:
        """Enter requests, leaving those already present as they are; return their keys in order."""
        texts = [canonical_json(body) for body in bodies]
        rows = [(hash_bytes(text.encode()), text) for text in texts]
        with self.transaction():
            self._db.executemany("INSERT OR IGNORE INTO requests (key, body) VALUES (?, ?)", rows)
        return [key for key, _ in rows]

    def plan(self, asks: Iterable[Ask]) -> None:
        """Store which request serves which record; a record keeps its first request of a round."""
        asks = list(asks)
        keys = list(dict.fromkeys(ask.request for ask in asks))
        with self.transaction():
            numbers = dict(self._select("SELECT key, rowid FROM requests WHERE key IN", keys))
            self._db.executemany(
                "INSERT OR IGNORE INTO plans VALUES (?, ?, ?, ?, ?)",
                [(ask.record, ask.round, numbers[ask.request], ask.line, ask.lines) for ask in asks],
            )

    def planned(self, records: Sequence[str]) -> dict[str, list[Ask]]:
        """Return the planned requests of each record that has any, ordered by round."""
        query = (
            "SELECT p.record, p.round, r.key, p.line, p.lines FROM plans p"
            " JOIN requests r ON r.rowid = p.request WHERE p.record IN"
        )
        planned: dict[str, list[Ask]] = {}
        for row in self._select(query, records):
            planned.setdefault(row[0], []).append(Ask(*row))
        return {record: sorted(asks, key=lambda ask: ask.round) for record, asks in planned.items()}

    def waiting(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that still have to be sent, each once, in order."""
        distinct = list(dict.fromkeys(keys))
        # The plus keeps SQLite from scanning everything that is pending instead of looking the keys up.
        query = "SELECT key FROM requests WHERE +state = 'pending' AND key IN"
        pending = {row[0] for row in self._select(query, distinct)}
        return [key for key in distinct if key in pending]

    def _select(self, query: str, values: Sequence[str]) -> Iterator[Any]:
        """Yield the rows of a query that ends in ``IN``, for any number of values."""
        for start in range(0, len(values), _AT_ONCE):
            chunk = values[start : start + _AT_ONCE]
            yield from self._db.execute(f"{query} ({','.join('?' * len(chunk))})", chunk)

    def body(self, key: str) -> dict[str, Any]:
        """Return the body that is sent for a key."""
        ((text,),) = self._select("SELECT body FROM requests WHERE key IN", [key])
        body: dict[str, Any] = json.loads(text)
        return body

    def record(self, started: Sequence[str] = (), outcomes: Sequence[Outcome] = ()) -> None:
        """Mark requests as in flight and commit outcomes, in one transaction that no kill can lose."""
        keys = [(key,) for key in started]
        with self.transaction():
            self._db.executemany("UPDATE requests SET state = 'in_flight' WHERE key = ?", keys)
            self._db.executemany(
                "UPDATE requests SET state = :state, answer = :answer, finish_reason = :finish_reason,"
                " prompt_tokens = :prompt_tokens, completion_tokens = :completion_tokens, seconds = :seconds,"
                " attempts = attempts + :attempts, reason = :reason WHERE key = :key",
                map(asdict, outcomes),
            )

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Mark answered requests (key -> reason) whose answer is unusable; they are not sent again."""
        with self.transaction():
            self._db.executemany(
                "UPDATE requests SET state = 'rejected', reason = ? WHERE key = ? AND answer IS NOT NULL",
                [(reason, key) for key, reason in reasons.items()],
            )

    def outcome(self, key: str) -> Outcome:
        """Return the current state of a request."""
        return self.outcomes([key])[key]

    def outcomes(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """Return the current state of several requests, all of which must exist."""
        rows = self._select(f"SELECT {_OUTCOME} FROM requests WHERE key IN", keys)
        outcomes = {row[0]: Outcome(*row) for row in rows}
        assert len(outcomes) == len(set(keys)), set(keys) - set(outcomes)
        return outcomes

    def batches(self, endpoint: str) -> list[str]:
        """Return the Batch API jobs whose results have not been read yet."""
        query = "SELECT id FROM batches WHERE endpoint = ? AND state = 'sent' ORDER BY rowid"
        return [row[0] for row in self._db.execute(query, (endpoint,))]

    def note_batch(self, name: str, endpoint: str, *, done: bool) -> None:
        """Store that a Batch API job was sent, or that its results have been read."""
        row = (name, endpoint, "done" if done else "sent")
        self._db.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?)", row)

    def totals(self) -> dict[str, Any]:
        """Return requests by state, tokens, attempts and seconds waited, over the ledger's whole life."""
        return _totals(self._db)


def read_totals(folder: Path) -> dict[str, Any]:
    """Return the totals of a ledger that a run may be writing now; ``DataError`` if the folder has none."""
    path = folder / LEDGER_FILE
    if not path.is_file():
        raise DataError(f"{path}: not found; expected the --out folder of a forge run")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            return _totals(db)
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path}: not a ledger ({error})") from error


def _totals(db: sqlite3.Connection) -> dict[str, Any]:
    states = dict.fromkeys(STATES, 0)
    states.update(db.execute("SELECT state, COUNT(*) FROM requests GROUP BY state").fetchall())
    names = ("attempts", "prompt_tokens", "completion_tokens", "seconds")
    sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in names)
    totals = dict(zip(names, db.execute(f"SELECT {sums} FROM requests").fetchone(), strict=True))
    seconds = round(totals.pop("seconds"), 3)
    return {"states": states, "requests": sum(states.values()), **totals, "waited_seconds": seconds}
