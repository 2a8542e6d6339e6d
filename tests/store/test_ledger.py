"""The ledger on real SQLite: the gate, task ids, the outbox, the lock, the group commit, the age of rows."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.errors import LedgerLocked, LedgerUnavailable, LedgerUnusable
from bridge.models import Publication, Sms, State, tell
from bridge.rules.outcomes import Outcome
from bridge.store import ledger as ledger_room
from bridge.store import schema
from bridge.store.ledger import MAX_TID, Ledger, Transaction

NOW = 1_700_000_000.0


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.open(tmp_path / "ledger.db", ["gw1", "gw2"], lock_wait_s=0)
    yield ledger
    await ledger.close()


def candidate(sms_id: str = "a", *, fingerprint: bytes = b"f", attempt: int = 1, **more: object) -> Sms:
    row = Sms(
        app_id="shop",
        id=sms_id,
        fingerprint=fingerprint,
        state=State.SUBMITTING,
        state_at=NOW,
        attempt=attempt,
        request='{"body":"{}","rk":"send.otp","meta":{"order":"7"}}',
        route="otp",
        recipient="+4915112345678",
        segments=1,
        encoding="gsm7",
        expires_at=NOW + 60,
        gateway="gw1",
        port=3,
        sim="8949",
        begun_at=NOW,
    )
    return replace(row, **more)  # type: ignore[arg-type]


async def begin(ledger: Ledger, *rows: Sms, gateway: str = "gw1") -> list[Sms | None]:
    return await ledger.write(lambda tx: tx.begin(gateway, rows, NOW))


async def outbox(ledger: Ledger) -> list[Publication]:
    return [publication for _, publication in await ledger.write(lambda tx: tx.read_outbox(0, 100))]


async def kinds(ledger: Ledger) -> list[str]:
    return [publication.routing_key.split(".")[1] for publication in await outbox(ledger)]


class TestGate:
    async def test_a_new_key_is_begun_with_a_task_id_and_stored_whole(self, ledger: Ledger) -> None:
        (begun,) = await begin(ledger, candidate())
        assert begun is not None and 1 <= (begun.tid or 0) <= MAX_TID
        assert await ledger.write(lambda tx: tx.sms("shop", "a")) == begun

    async def test_a_repeat_is_not_begun_and_its_latest_event_is_told_again_under_its_own_id(
        self, ledger: Ledger
    ) -> None:
        (begun,) = await begin(ledger, candidate())
        assert begun is not None
        told, event = tell(replace(begun, state=State.SUBMITTED), "sms.submitted", NOW)
        await ledger.write(lambda tx: tx.settle([Outcome(told, (event,))], NOW))
        assert await begin(ledger, candidate()) == [None]
        first, again = await outbox(ledger)
        assert again == first

    async def test_a_repeat_before_any_event_tells_nothing(self, ledger: Ledger) -> None:
        await begin(ledger, candidate())
        assert await begin(ledger, candidate()) == [None]
        assert await outbox(ledger) == []

    async def test_the_same_id_for_another_sms_is_a_conflict_and_leaves_the_row_alone(self, ledger: Ledger) -> None:
        (begun,) = await begin(ledger, candidate())
        assert await begin(ledger, candidate(fingerprint=b"other")) == [None]
        assert await ledger.write(lambda tx: tx.sms("shop", "a")) == begun
        (conflict,) = await outbox(ledger)
        assert conflict.message_id == f"conflict/shop:a/{b'other'.hex()}"
        assert b'"reason":"id_conflict"' in conflict.body and b'"of_sms":false' in conflict.body

    async def test_a_handed_back_sms_is_begun_again_by_its_next_attempt_only(self, ledger: Ledger) -> None:
        (begun,) = await begin(ledger, candidate())
        assert begun is not None
        back = replace(begun, state=State.HANDED_BACK, tid=None, tried=("8949",), sequence=4)
        await ledger.write(lambda tx: tx.settle([Outcome(back, (), past=begun)], NOW))
        assert await begin(ledger, candidate(attempt=1)) == [None]
        (again,) = await begin(ledger, candidate(attempt=2))
        assert again is not None
        assert (again.attempt, again.sequence, again.tried) == (2, 4, ("8949",))
        past = await ledger.write(lambda tx: tx.past_of_task("gw1", begun.tid or 0))
        assert past is not None and (past.id, past.attempt, past.port) == ("a", 1, 3)

    async def test_two_copies_in_one_batch_are_begun_once(self, ledger: Ledger) -> None:
        first, copy, other = await begin(ledger, candidate(), candidate(), candidate(fingerprint=b"other"))
        assert first is not None and copy is None and other is None
        assert await ledger.write(lambda tx: tx.sms("shop", "a")) == first
        assert [one.message_id for one in await outbox(ledger)] == [f"conflict/shop:a/{b'other'.hex()}"]

    async def test_refuse_writes_the_final_row_and_its_event_together(self, ledger: Ledger) -> None:
        row = candidate(state=State.EXPIRED)
        assert await ledger.write(lambda tx: tx.refuse(row, "sms.expired", NOW, reason="too_late"))
        kept = await ledger.write(lambda tx: tx.sms("shop", "a"))
        assert kept is not None and kept.state is State.EXPIRED
        assert kept.request == '{"rk":"send.otp","meta":{"order":"7"}}', "the text is blanked at the final state"
        assert await kinds(ledger) == ["expired"]

    async def test_refusing_twice_is_a_repeat(self, ledger: Ledger) -> None:
        row = candidate(state=State.REJECTED)
        assert await ledger.write(lambda tx: tx.refuse(row, "sms.rejected", NOW, reason="invalid"))
        assert not await ledger.write(lambda tx: tx.refuse(row, "sms.rejected", NOW + 1, reason="invalid"))
        first, again = await outbox(ledger)
        assert again.message_id == first.message_id

    async def test_what_was_begun_cannot_be_refused(self, ledger: Ledger) -> None:
        await begin(ledger, candidate())
        assert not await ledger.write(lambda tx: tx.refuse(candidate(state=State.EXPIRED), "sms.expired", NOW))


class TestTaskIds:
    async def test_ids_wrap_and_skip_those_that_open_rows_hold(self, ledger: Ledger) -> None:
        def start_at(tid: int) -> Callable[[Transaction], None]:
            return lambda tx: tx.connection.execute(sa.update(schema.gateway).values(next_tid=tid)) and None

        await ledger.write(start_at(MAX_TID))
        first = await begin(ledger, candidate("a"), candidate("b"), candidate("c"))
        assert [sms and sms.tid for sms in first] == [MAX_TID, 1, 2]
        await ledger.write(start_at(MAX_TID - 1))
        second = await begin(ledger, *(candidate(f"d{n}") for n in range(3)))
        assert [sms and sms.tid for sms in second] == [MAX_TID - 1, 3, 4]

    async def test_each_gateway_counts_alone(self, ledger: Ledger) -> None:
        (one,) = await begin(ledger, candidate("a"))
        (other,) = await begin(ledger, candidate("b", gateway="gw2"), gateway="gw2")
        assert one is not None and other is not None
        assert await ledger.write(lambda tx: tx.sms_of_task("gw1", one.tid or 0)) == one
        assert await ledger.write(lambda tx: tx.sms_of_task("gw2", other.tid or 0)) == other


class TestWriter:
    async def test_writers_that_come_together_share_a_commit(self, tmp_path: Path) -> None:
        commits: list[float] = []
        ledger = await Ledger.open(tmp_path / "l.db", ["gw1"], lock_wait_s=0, on_commit=commits.append)
        writes = (begin(ledger, candidate(f"s{n}")) for n in range(60))
        begun = await asyncio.gather(*writes)
        assert all(sms for (sms,) in begun)
        assert len(commits) < 30
        await ledger.close()

    async def test_an_error_undoes_its_own_changes_and_nobody_elses(self, ledger: Ledger) -> None:
        def fail(tx: Transaction) -> None:
            tx.save([candidate("lost")])
            raise RuntimeError("decided otherwise")

        kept, failed = await asyncio.gather(
            begin(ledger, candidate("kept")), ledger.write(fail), return_exceptions=True
        )
        assert isinstance(failed, RuntimeError)
        assert not isinstance(kept, BaseException)
        assert await ledger.write(lambda tx: tx.sms("shop", "lost")) is None
        assert await ledger.write(lambda tx: tx.sms("shop", "kept")) is not None

    async def test_a_full_disk_is_said_and_nothing_is_half_stored(self, tmp_path: Path) -> None:
        failures: list[None] = []
        ledger = await Ledger.open(tmp_path / "l.db", ["gw1"], lock_wait_s=0, on_failure=lambda: failures.append(None))

        def limit(tx: Transaction) -> None:
            pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            tx.connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

        await ledger.write(limit)
        with pytest.raises(LedgerUnavailable, match="full"):
            await begin(ledger, *(candidate(f"s{n}", request="x" * 4_000) for n in range(20)))
        assert failures and ledger.failing
        assert await ledger.write(lambda tx: tx.count_states()) == {}
        assert ledger.failing, "that something could be read says nothing about the disk"
        await ledger.write(lambda tx: tx.connection.exec_driver_sql("PRAGMA max_page_count=1000000"))
        await ledger.write(Transaction.count_states)
        assert not ledger.failing
        await ledger.close()

    async def test_a_file_that_another_process_holds_is_waited_for_without_holding_up_the_loop(
        self, tmp_path: Path
    ) -> None:
        ledger = await Ledger.open(tmp_path / "l.db", ["gw1"], lock_wait_s=0)
        with contextlib.closing(sqlite3.connect(tmp_path / "l.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = asyncio.create_task(begin(ledger, candidate("s")))
            for _ in range(50):
                await asyncio.sleep(0)
            assert not begun.done()
            other.execute("ROLLBACK")
            assert all(await begun)
        assert not ledger.failing
        await ledger.close()

    async def test_a_file_that_stays_locked_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bridge.store.writer.LOCKED_FOR_S", 0.0)
        ledger = await Ledger.open(tmp_path / "l.db", ["gw1"], lock_wait_s=0)
        with contextlib.closing(sqlite3.connect(tmp_path / "l.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerUnavailable, match="locked"):
                await begin(ledger, candidate("s"))
            assert ledger.failing
            other.execute("ROLLBACK")
        await begin(ledger, candidate("s"))
        assert not ledger.failing
        await ledger.close()

    async def test_a_commit_that_fails_is_undone_and_the_next_one_stores(self, tmp_path: Path) -> None:
        ledger = await Ledger.open(tmp_path / "l.db", ["gw1"], lock_wait_s=0)
        large = Publication("events", "k", b"x" * 200_000)
        await ledger.write(lambda tx: tx.publish([large], NOW))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        written = await asyncio.to_thread((tmp_path / "l.db-wal").stat)
        resource.setrlimit(resource.RLIMIT_FSIZE, (written.st_size + 50_000, hard))
        try:
            for _ in range(2):
                with pytest.raises(LedgerUnavailable):
                    await ledger.write(lambda tx: tx.publish([large], NOW))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        await ledger.write(lambda tx: tx.publish([large], NOW))
        assert await ledger.write(Transaction.outbox_facts) == (2, NOW)
        await ledger.close()

    async def test_a_closed_ledger_says_so(self, ledger: Ledger) -> None:
        await ledger.close()
        with pytest.raises(LedgerUnavailable, match="closed"):
            await begin(ledger, candidate())


async def test_an_error_of_the_database_holds_no_values(ledger: Ledger) -> None:
    def fail(tx: Transaction) -> None:
        tx.connection.execute(sa.text("INSERT INTO nowhere VALUES (:to)"), {"to": "+4915112345678"})

    with pytest.raises(LedgerUnavailable) as told:
        await ledger.write(fail)
    assert "4915112345678" not in str(told.value)


class TestFile:
    async def test_what_was_stored_is_there_after_a_restart(self, tmp_path: Path) -> None:
        ledger = await Ledger.open(tmp_path / "l.db", ["gw1"], lock_wait_s=0)
        (begun,) = await begin(ledger, candidate())
        await ledger.close()
        ledger = await Ledger.open(tmp_path / "l.db", ["gw1"], lock_wait_s=0)
        assert await ledger.write(lambda tx: tx.sms("shop", "a")) == begun
        await ledger.close()

    async def test_a_second_bridge_is_refused_with_the_cure(self, ledger: Ledger, tmp_path: Path) -> None:
        with pytest.raises(LedgerLocked, match=r"store\.path"):
            await Ledger.open(tmp_path / "ledger.db", [], lock_wait_s=0.15)

    async def test_a_start_that_is_given_up_holds_the_lock_until_its_migration_has_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, goes_on = threading.Event(), threading.Event()
        prepare = ledger_room._prepare

        def slowly(path: Path, gateways: Sequence[str]) -> sa.Engine:
            began.set()
            goes_on.wait(5)
            return prepare(path, gateways)

        monkeypatch.setattr(ledger_room, "_prepare", slowly)
        opening = asyncio.create_task(Ledger.open(tmp_path / "l.db", [], lock_wait_s=0))
        await asyncio.to_thread(began.wait)
        opening.cancel()
        with pytest.raises(LedgerLocked):
            await Ledger.open(tmp_path / "l.db", [], lock_wait_s=0.15)
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await (await Ledger.open(tmp_path / "l.db", [], lock_wait_s=0)).close()

    async def test_a_damaged_file_is_refused_with_the_cure(self, tmp_path: Path) -> None:
        (tmp_path / "l.db").write_bytes(b"this is no database, and long enough to be looked at" * 100)
        with pytest.raises(LedgerUnusable, match="backup"):
            await Ledger.open(tmp_path / "l.db", [], lock_wait_s=0)

    async def test_a_future_version_is_refused_with_the_cure(self, tmp_path: Path) -> None:
        await (await Ledger.open(tmp_path / "l.db", [], lock_wait_s=0)).close()
        with sqlite3.connect(tmp_path / "l.db") as raw:
            raw.execute("UPDATE alembic_version SET version_num = '9999'")
        raw.close()
        with pytest.raises(LedgerUnusable, match="newer version"):
            await Ledger.open(tmp_path / "l.db", [], lock_wait_s=0)

    async def test_an_older_version_is_backed_up_before_its_migration(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "l.db") as raw:
            raw.execute("CREATE TABLE alembic_version (version_num TEXT)")
            raw.execute("CREATE TABLE old (x)")
        raw.close()
        await (await Ledger.open(tmp_path / "l.db", [], lock_wait_s=0)).close()
        kept = {path.name for path in await asyncio.to_thread(lambda: list(tmp_path.iterdir()))}
        assert not [name for name in kept if ".before-" in name], "an empty version is no version: nothing to keep"

    async def test_the_migrations_make_what_the_schema_says(self, ledger: Ledger) -> None:
        def described(connection: sa.Connection) -> dict[str, str]:
            rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            return {
                name: " ".join(sql.split()) for name, sql in rows if name not in {"alembic_version", "sqlite_sequence"}
            }

        fresh = sa.create_engine("sqlite://")
        with fresh.begin() as connection:
            schema.metadata.create_all(connection)
            expected = described(connection)
        fresh.dispose()
        assert await ledger.write(lambda tx: described(tx.connection)) == expected


class TestOutbox:
    async def test_rows_come_oldest_first_and_go_when_confirmed(self, ledger: Ledger) -> None:
        first = Publication("events", "a.b.-.-.-", b"1", headers={"x": 1}, message_id="m", copy_to="q", timestamp=NOW)
        second = Publication("later.5", "send.otp", b"2", app_id="shop", correlation_id="c", reply_to="r")
        await ledger.write(lambda tx: tx.publish([first, second], NOW))
        rows = await ledger.write(lambda tx: tx.read_outbox(0, 10))
        assert [publication for _, publication in rows] == [first, second]
        await ledger.write(lambda tx: tx.drop_outbox([rows[0][0]]))
        assert await outbox(ledger) == [second]
        assert await ledger.write(Transaction.outbox_facts) == (1, NOW)

    async def test_a_number_never_comes_again(self, ledger: Ledger) -> None:
        one = Publication("events", "a", b"1")
        await ledger.write(lambda tx: tx.publish([one], NOW))
        ((n, _),) = await ledger.write(lambda tx: tx.read_outbox(0, 10))
        await ledger.write(lambda tx: tx.drop_outbox([n]))
        await ledger.write(lambda tx: tx.publish([one], NOW))
        ((later, _),) = await ledger.write(lambda tx: tx.read_outbox(0, 10))
        assert later > n


class TestAge:
    async def test_final_rows_become_slim_and_are_forgotten_open_ones_stay(self, ledger: Ledger) -> None:
        await begin(ledger, candidate("open"))
        await ledger.write(lambda tx: tx.refuse(candidate("done", state=State.EXPIRED), "sms.expired", NOW, reason="x"))
        prune = {"full_rows_s": 100.0, "horizon_s": 1_000.0, "received_s": 100.0, "limit": 10}
        assert await ledger.write(lambda tx: tx.prune(NOW + 50, **prune)) == 0
        assert await ledger.write(lambda tx: tx.prune(NOW + 500, **prune)) == 1
        slim = await ledger.write(lambda tx: tx.sms("shop", "done"))
        assert slim is not None and slim.request is None and slim.recipient == ""
        assert not await ledger.write(lambda tx: tx.refuse(candidate("done", state=State.EXPIRED), "sms.expired", NOW))
        assert b'"slim":true' in (await outbox(ledger))[-1].body
        assert await ledger.write(lambda tx: tx.prune(NOW + 5_000, **prune)) == 1
        assert await ledger.write(lambda tx: tx.count_states()) == {"submitting": 1}

    async def test_slices_go_from_the_oldest_on_and_look_at_nothing_twice(self, ledger: Ledger) -> None:
        rows = [candidate(f"s{n}", state=State.SENT, state_at=NOW + n, tid=n + 1, event_id="e") for n in range(5)]
        await ledger.write(lambda tx: tx.save(rows))
        prune = {"full_rows_s": 100.0, "horizon_s": 10_000.0, "received_s": 100.0, "limit": 2}

        async def slim() -> list[str]:
            found = "SELECT id FROM sms WHERE request IS NULL ORDER BY id"
            return [one for (one,) in await ledger.write(lambda tx: tx.connection.exec_driver_sql(found).all())]

        for touched, expected in ((2, ["s0", "s1"]), (2, ["s0", "s1", "s2", "s3"]), (0, ["s0", "s1", "s2", "s3"])):
            assert await ledger.write(lambda tx: tx.prune(NOW + 103.5, **prune)) == touched
            assert await slim() == expected
        await ledger.write(lambda tx: tx.save([candidate("s1", state=State.SENT, state_at=NOW + 1, event_id="e")]))
        assert await ledger.write(lambda tx: tx.prune(NOW + 103.5, **prune)) == 0, "what lies behind is not looked at"
        assert await ledger.write(lambda tx: tx.prune(NOW + 200, **prune)) == 1
        assert await slim() == ["s0", "s2", "s3", "s4"]

    async def test_what_is_forgotten_at_once_is_not_slimmed_first(self, ledger: Ledger) -> None:
        await ledger.write(lambda tx: tx.save(candidate(f"s{n}", state=State.SENT, tid=n + 1) for n in range(3)))
        prune = {"full_rows_s": 100.0, "horizon_s": 100.0, "received_s": 100.0, "limit": 2}
        assert await ledger.write(lambda tx: tx.prune(NOW + 500, **prune)) == 2
        (left,) = await ledger.write(lambda tx: tx.connection.exec_driver_sql("SELECT request FROM sms").all())
        assert left[0] is not None

    async def test_a_past_attempt_is_kept_while_its_sms_may_come_back(self, ledger: Ledger) -> None:
        rows = [candidate(name, tid=n + 1) for n, name in enumerate(("back", "over"))]
        back = replace(rows[0], state=State.HANDED_BACK, deadline_at=NOW + 9_000)
        over = replace(rows[1], state=State.SENT)
        await ledger.write(lambda tx: tx.settle([Outcome(back, (), rows[0]), Outcome(over, (), rows[1])], NOW))
        prune = {"full_rows_s": 100.0, "horizon_s": 9_000.0, "received_s": 100.0, "limit": 10}
        await ledger.write(lambda tx: tx.prune(NOW + 500, **prune))
        assert await ledger.write(lambda tx: tx.past_of_task("gw1", 1)) is not None
        assert await ledger.write(lambda tx: tx.past_of_task("gw1", 2)) is None

    async def test_a_restart_of_the_device_is_seen_by_its_sequence(self, ledger: Ledger) -> None:
        assert await ledger.write(lambda tx: tx.boot_of("gw1", 7)) == (0, None)
        assert await ledger.write(lambda tx: tx.boot_of("gw1", 8)) == (0, None)
        assert await ledger.write(lambda tx: tx.boot_of("gw1", 6)) == (0, None), "overtaken on its way"
        assert await ledger.write(lambda tx: tx.boot_of("gw1", 1)) == (1, 8)
        assert await ledger.write(Transaction.boots) == {"gw1": 1, "gw2": 0}

    async def test_what_a_sim_owes_is_remembered(self, ledger: Ledger) -> None:
        await ledger.write(lambda tx: tx.spend({"8949": (-1.5, NOW), "other": (2.0, NOW)}))
        await ledger.write(lambda tx: tx.spend({"8949": (-0.5, NOW)}))
        assert await ledger.write(Transaction.debts) == {"8949": (-0.5, NOW)}
