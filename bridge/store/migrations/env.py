"""Alembic's entry: the ledger hands over its open connection, there is no ini file and no offline mode."""

from __future__ import annotations

from alembic import context

from bridge.store import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
