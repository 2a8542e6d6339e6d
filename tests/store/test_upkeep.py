"""The ledger's file: its invariants one by one, copies of it, and every way it can be unusable, on real files."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from bridge.errors import LedgerUnusable
from bridge.models import Publication, State
from bridge.store import schema, upkeep
from bridge.store.ledger import MAX_TID, Ledger
from tests.store.test_ledger import NOW, candidate
from tests.store.test_ledger import begin as begin_in

TEXT = "a text that nobody may see"
FINAL = {"state": "sent", "request": '{"rk":"send.otp"}', "event_id": "e", "event_type": "sms.sent", "event_at": NOW}


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A ledger with one SMS at a device, one final one and an event to tell; no bridge is at work on it."""
    path = tmp_path / "ledger.db"
    ledger = await Ledger.open(path, ["gw1"], lock_wait_s=0)
    await begin_in(ledger, candidate("open", deadline_at=NOW + 20))
    await ledger.write(lambda tx: tx.refuse(candidate("done", state=State.EXPIRED), "sms.expired", NOW, reason="x"))
    await ledger.close()
    return path


@pytest.fixture
async def large(tmp_path: Path) -> Path:
    """A ledger of many pages."""
    path = tmp_path / "ledger.db"
    ledger = await Ledger.open(path, ["gw1"], lock_wait_s=0)
    await ledger.write(lambda tx: tx.save(candidate(f"s{n}", state=State.SENT, tid=n + 1) for n in range(2_000)))
    await ledger.close()
    return path


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(statement)
        raw.commit()


def broken_rules(path: Path) -> list[tuple[str, str]]:
    return [(one.rule, one.row) for one in upkeep.check(path, NOW).violations]


def set_of(**values: object) -> str:
    told = ", ".join(f"{name} = {'NULL' if value is None else repr(value)}" for name, value in values.items())
    return f"UPDATE sms SET {told} WHERE id = 'open'"


BROKEN = [
    ("state", set_of(state="lost"), "sms shop:open"),
    ("placed", set_of(gateway=None), "sms shop:open"),
    ("placed", set_of(port=None), "sms shop:open"),
    ("placed", set_of(tid=None), "sms shop:open"),
    ("deadline", set_of(state="handed_back", tid=None, deadline_at=None), "sms shop:open"),
    ("whole", set_of(request=None), "sms shop:open"),
    ("whole", set_of(request='{"rk":"send.otp"}'), "sms shop:open"),
    ("whole", set_of(request="{no json"), "sms shop:open"),
    ("told", set_of(**FINAL | {"event_id": None}), "sms shop:open"),
    ("no_text", set_of(**FINAL | {"request": f'{{"body":"{TEXT}"}}'}), "sms shop:open"),
    ("past", set_of(state="handed_back"), "sms shop:open"),
    ("tid", set_of(tid=0), "sms shop:open"),
    ("tid", set_of(tid=MAX_TID + 1), "sms shop:open"),
    (
        "past_tid",
        f"INSERT INTO past_attempt VALUES ('shop','done',1,'gw1',1,1,'s',{2**31},'+4915112345678',5,'x',{NOW})",
        "past_attempt shop:done/1",
    ),
    ("next_tid", "UPDATE gateway SET next_tid = 0", "gateway gw1"),
    ("outbox", "UPDATE outbox SET properties = '{'", "outbox 1"),
    ("outbox", "UPDATE outbox SET exchange = ''", "outbox 1"),
    ("outbox_event", "UPDATE outbox SET body = 'no event'", "outbox 1"),
    ("account", "INSERT OR REPLACE INTO statistics VALUES ('gw1', 3, 's', 'r', -1, 0, 0, NULL)", "statistics gw1/3"),
    ("closed_account", "INSERT INTO closed_account VALUES ('gw1', 3, 7, 6, 1, 0)", "closed_account gw1/3/7"),
    ("begun", "UPDATE sms SET begun_n = 9 WHERE id = 'open'", "sms shop:open"),
    ("orphan", f"INSERT INTO orphan VALUES (1, {NOW}, 'gw1', 1, 's', '+4915112345678', 0, NULL, '')", "orphan 1"),
    (
        "received",
        f"INSERT INTO received VALUES ('k', {NOW}, 0, 'gw1', x'ABCD', 's', '+4915112345678', x'', NULL, 1, '{{}}')",
        "received ABCD",
    ),
]
"""Rule, what breaks it, and the row that must be named; ``own_tid`` needs two rows."""


@pytest.mark.parametrize(("rule", "statement", "row"), BROKEN)
def test_a_row_that_breaks_a_rule_is_named_by_its_key_alone(path: Path, rule: str, statement: str, row: str) -> None:
    change(path, statement)
    assert broken_rules(path) == [(rule, row)]
    told = str(upkeep.check(path, NOW))
    assert TEXT not in told and "4915112345678" not in told


def test_two_sms_with_one_task_id_are_both_named(path: Path) -> None:
    change(path, "DROP INDEX sms_tid")
    change(
        path,
        "INSERT INTO sms (app_id, id, fingerprint, state, state_at, attempt, sequence, request, recipient, segments, "
        "deadline_at, gateway, port, tid, epoch) SELECT app_id, 'twin', fingerprint, state, state_at, attempt, "
        "sequence, request, recipient, segments, deadline_at, gateway, 4, tid, epoch FROM sms WHERE id = 'open'",
    )
    assert broken_rules(path) == [("own_tid", "sms shop:open"), ("own_tid", "sms shop:twin")]


def test_each_rule_has_a_case_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN} | {"own_tid"} == {one.rule for one in upkeep.INVARIANTS}


def test_a_good_ledger_is_counted_and_what_is_late_is_said(path: Path) -> None:
    report = upkeep.check(path, NOW + 30)
    assert report.violations == ()
    assert report.states == {"expired": 1, "submitting": 1}
    assert (report.rows["sms"], report.rows["outbox"], report.rows["past_attempt"]) == (2, 1, 0)
    assert report.schema == upkeep.revisions()[0]
    assert report.bytes == path.stat().st_size
    assert (report.overdue, report.overdue_s) == (1, 10.0)
    assert upkeep.check(path, NOW).overdue == 0


def test_a_look_leaves_nothing_beside_the_ledger(path: Path) -> None:
    before = sorted(one.name for one in path.parent.iterdir())
    upkeep.check(path, NOW)
    assert sorted(one.name for one in path.parent.iterdir()) == before


async def test_a_running_bridge_goes_on_while_its_ledger_is_checked_and_copied(tmp_path: Path) -> None:
    ledger = await Ledger.open(tmp_path / "ledger.db", ["gw1"], lock_wait_s=0)
    await begin_in(ledger, candidate("before", deadline_at=NOW))
    stopping = asyncio.Event()

    async def work() -> int:
        done = 0
        while not stopping.is_set():
            done += 1
            await ledger.write(lambda tx: tx.publish([Publication("events", "a.b.-.-.-", b"{}")], NOW))
        return done

    working = asyncio.create_task(work())
    report = await asyncio.to_thread(upkeep.check, tmp_path / "ledger.db", NOW)
    await asyncio.to_thread(upkeep.copy_ledger, tmp_path / "ledger.db", tmp_path / "copy.db", force=False)
    stopping.set()
    done = await working
    assert (report.violations, report.states) == ((), {"submitting": 1})
    assert done > 0
    await ledger.close()
    copied = upkeep.check(tmp_path / "copy.db", NOW)
    assert (copied.violations, copied.states) == ((), {"submitting": 1})


# --- copies ---------------------------------------------------------------------------------------------------------


async def test_a_copy_is_a_ledger_that_a_bridge_can_run_on(path: Path, tmp_path: Path) -> None:
    size = upkeep.copy_ledger(path, tmp_path / "copy.db", force=False)
    assert size == (tmp_path / "copy.db").stat().st_size
    assert not (tmp_path / "copy.db.partial").exists()
    ledger = await Ledger.open(tmp_path / "copy.db", ["gw1"], lock_wait_s=0)
    assert await ledger.write(lambda tx: tx.count_states()) == {"expired": 1, "submitting": 1}
    await ledger.close()


def test_what_is_there_already_is_replaced_only_by_force(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(LedgerUnusable, match="is there already: name another file, or replace it with --force"):
        upkeep.copy_ledger(path, target, force=False)
    assert target.read_text() == "precious"
    upkeep.copy_ledger(path, target, force=True)
    assert upkeep.check(target, NOW).states


def test_the_ledger_is_never_its_own_copy(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other.db").symlink_to(path)
    with pytest.raises(LedgerUnusable, match="is the ledger itself"):
        upkeep.copy_ledger(path, tmp_path / "other.db", force=True)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [(".", "is a folder: name a file"), ("nowhere/copy.db", "unable to open"), ("/proc/copy.db", "unable to open")],
)
def test_a_place_that_takes_no_copy_is_named(path: Path, target: str, sentence: str) -> None:
    with pytest.raises(LedgerUnusable, match=sentence) as told:
        upkeep.copy_ledger(path, path.parent / target, force=False)
    assert str(told.value).startswith(str(path.parent / target))


def test_a_damaged_ledger_makes_no_copy_and_keeps_the_one_that_is_there(large: Path) -> None:
    target = large.parent / "copy.db"
    upkeep.copy_ledger(large, target, force=False)
    kept = target.read_bytes()
    damage(large)
    with pytest.raises(LedgerUnusable, match="damaged"):
        upkeep.copy_ledger(large, target, force=True)
    assert target.read_bytes() == kept
    assert not target.with_name("copy.db.partial").exists()


# --- what no bridge can work with -----------------------------------------------------------------------------------


def damage(path: Path) -> None:
    """A page in the middle is no page any more."""
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2 // 4096 * 4096
    raw[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(raw)


def no_header(path: Path) -> None:
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_the_future(path: Path) -> None:
    change(path, "UPDATE alembic_version SET version_num = '9999'")


UNUSABLE = [
    pytest.param(damage, "is damaged: .*Put a backup in its place", id="a damaged page"),
    pytest.param(no_header, "is damaged: .*Put a backup in its place", id="no header"),
    pytest.param(half, "is damaged: .*Put a backup in its place", id="half a file"),
    pytest.param(
        of_the_future, "was written by a newer version .*9999.*: install that version again", id="of the future"
    ),
]


@pytest.mark.parametrize(("harm", "sentence"), UNUSABLE)
async def test_an_unusable_file_is_refused_with_the_cure_wherever_it_is_opened(large: Path, harm, sentence) -> None:
    harm(large)
    sentence = f"the ledger {large} {sentence}"
    with pytest.raises(LedgerUnusable, match=sentence):
        upkeep.check(large, NOW)
    with pytest.raises(LedgerUnusable, match=sentence):
        upkeep.copy_ledger(large, large.parent / "copy.db", force=False)
    with pytest.raises(LedgerUnusable, match=sentence):
        await Ledger.open(large, ["gw1"], lock_wait_s=0)


async def test_the_backup_that_the_cure_names_is_one(large: Path) -> None:
    upkeep.copy_ledger(large, large.parent / "good.db", force=False)
    damage(large)
    (large.parent / "good.db").replace(large)
    await (await Ledger.open(large, ["gw1"], lock_wait_s=0)).close()


def test_a_file_of_another_program_is_no_ledger(tmp_path: Path) -> None:
    change(tmp_path / "other.db", "CREATE TABLE t (x)")
    with pytest.raises(LedgerUnusable, match="is no ledger of the bridge"):
        upkeep.check(tmp_path / "other.db", NOW)


def test_an_older_ledger_is_not_judged_by_todays_rules(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, known = upkeep.revisions()
    assert upkeep.check(path, NOW).schema == newest
    monkeypatch.setattr(upkeep, "revisions", lambda: ("9999", known | {"9999"}))
    with pytest.raises(LedgerUnusable, match=r"of an older version .*start the bridge once"):
        upkeep.check(path, NOW)


async def test_a_ledger_that_is_not_there_is_made_by_the_bridge_alone(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnusable, match=r"there is no ledger .*store\.path"):
        upkeep.check(tmp_path / "ledger.db", NOW)
    with pytest.raises(LedgerUnusable, match=r"there is no ledger .*store\.path"):
        upkeep.copy_ledger(tmp_path / "ledger.db", tmp_path / "copy.db", force=False)
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    with pytest.raises(LedgerUnusable, match="its folder must be there"):
        await Ledger.open(tmp_path / "nowhere" / "ledger.db", [], lock_wait_s=0)


OPENS = """
import asyncio, pathlib, sys
from bridge.errors import LedgerUnusable
from bridge.store import upkeep
from bridge.store.ledger import Ledger
path = pathlib.Path(sys.argv[1])
print(upkeep.check(path, 0.0).violations)
for work in (
    lambda: upkeep.copy_ledger(path, path.with_name("copy.db"), force=False),
    lambda: asyncio.run(Ledger.open(path, [], lock_wait_s=0)),
):
    try:
        work()
    except LedgerUnusable as told:
        print(told)
"""


async def test_a_folder_that_cannot_be_written_can_be_read_and_says_what_is_wrong(path: Path) -> None:
    path.with_name(f"{path.name}.lock").unlink()
    path.parent.chmod(0o555)
    bare = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []  # root may write all
    try:
        process = await asyncio.create_subprocess_exec(
            *bare, sys.executable, "-c", OPENS, str(path), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
    finally:
        path.parent.chmod(0o755)
    checked, copied, opened = out.decode().splitlines()
    assert checked == "()"
    assert "copy.db cannot be written: unable to open database file" in copied
    assert "Permission denied" in opened and "writable for the bridge's user" in opened


# --- migrations -----------------------------------------------------------------------------------------------------


def migrated_to(path: Path, revision: str) -> None:
    """A ledger as the version of that revision left it, with a row in each table."""
    config = Config()
    config.set_main_option("script_location", str(upkeep.MIGRATIONS))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for name in sorted(set(sa.inspect(connection).get_table_names()) - {"alembic_version"}):
            columns = connection.exec_driver_sql(f"PRAGMA table_info({name})").all()
            needed = [c.name for c in columns if c.notnull and c.dflt_value is None]
            marks = ", ".join("1" for _ in needed)
            connection.exec_driver_sql(f"INSERT INTO {name} ({', '.join(needed)}) VALUES ({marks})")
        connection.exec_driver_sql("UPDATE sms SET state = 'expired', event_id = 'e', event_type = 'x', event_at = 1")
        connection.exec_driver_sql("""UPDATE outbox SET properties = '{"ct":"x"}', exchange = 'dead'""")
    engine.dispose()


def described(path: Path) -> dict[str, str]:
    """The shape of the tables: what SQLite says of their columns, and the indexes as they were written."""
    with closing(sqlite3.connect(path)) as raw:
        names = [n for (n,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        told = {name: str(sorted(row[1:] for row in raw.execute(f"PRAGMA table_info({name})"))) for name in names}
        indexes = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        return told | {name: " ".join(sql.split()) for name, sql in indexes}


@pytest.mark.parametrize("revision", sorted(upkeep.revisions()[1]))
async def test_each_revision_migrates_with_its_rows_to_the_same_schema(tmp_path: Path, revision: str) -> None:
    newest, _ = upkeep.revisions()
    migrated_to(tmp_path / "old.db", revision)
    for name in ("old.db", "new.db"):
        await (await Ledger.open(tmp_path / name, ["gw1"], lock_wait_s=0)).close()
    assert described(tmp_path / "old.db") == described(tmp_path / "new.db")
    report = upkeep.check(tmp_path / "old.db", NOW)
    assert (report.schema, report.violations) == (newest, ())
    assert all(report.rows[table.name] >= 1 for table in schema.metadata.sorted_tables if table.name in MADE_FIRST)
    kept = tmp_path / f"old.db.before-{newest}"
    assert kept.exists() is (revision != newest)
    if kept.exists():
        with closing(sqlite3.connect(kept)) as raw:
            assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [(revision,)]


MADE_FIRST = {"sms", "past_attempt", "outbox", "budget", "gateway", "meta"}
"""Tables whose rows no migration may lose."""


async def test_a_migration_that_fails_leaves_the_ledger_and_its_copy_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_for = tmp_path / "migrations"
    shutil.copytree(upkeep.MIGRATIONS, made_for)
    newest, known = upkeep.revisions()
    (made_for / "versions" / "9999_fails.py").write_text(
        f"from alembic import op\nrevision, down_revision = '9999', '{newest}'\n"
        "def upgrade():\n    op.execute('CREATE TABLE half (x)')\n    op.execute('SELECT nonsense')\n"
    )
    await (await Ledger.open(tmp_path / "ledger.db", ["gw1"], lock_wait_s=0)).close()
    before = described(tmp_path / "ledger.db")
    monkeypatch.setattr(upkeep, "MIGRATIONS", made_for)
    monkeypatch.setattr(upkeep, "revisions", lambda: ("9999", known | {"9999"}))
    with pytest.raises(LedgerUnusable, match="nonsense"):
        await Ledger.open(tmp_path / "ledger.db", ["gw1"], lock_wait_s=0)
    assert described(tmp_path / "ledger.db") == before
    assert described(tmp_path / "ledger.db.before-9999") == before
