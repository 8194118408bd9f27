"""What Alembic runs for each command: it is handed the connection by `widget.migrations`."""

from alembic import context

from widget.models import Base


def ours(name: str | None, kind: str, _parents: object) -> bool:
    """Whether `models` answers for it: the queue's tables are Procrastinate's."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    include_name=ours,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
