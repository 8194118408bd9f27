"""The integration's circuit; deliveries in their persons' order, their password apart, their lease in `due_at`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

UNSETTLED = sa.text("state <> 'delivered'")


def upgrade() -> None:
    op.add_column("integration", sa.Column("failures", sa.Integer(), server_default="0", nullable=False))
    op.add_column("integration", sa.Column("rests_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("integration", sa.Column("trouble", sa.String(), nullable=True))

    op.drop_index("ix_delivery_due", table_name="delivery")
    op.drop_index("ix_delivery_person", table_name="delivery")
    # What is there is numbered by its age: a new identity column would number it by where it lies.
    op.add_column("delivery", sa.Column("number", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE delivery SET number = sorted.number FROM"
        " (SELECT id, row_number() OVER (ORDER BY created_at, id) AS number FROM delivery) AS sorted"
        " WHERE sorted.id = delivery.id"
    )
    op.alter_column("delivery", "number", nullable=False)
    op.execute("ALTER TABLE delivery ALTER COLUMN number ADD GENERATED ALWAYS AS IDENTITY")
    op.execute("SELECT setval(pg_get_serial_sequence('delivery', 'number'), count(*) + 1, false) FROM delivery")
    op.create_unique_constraint("uq_delivery_number", "delivery", ["number"])

    op.add_column("delivery", sa.Column("person_hashes", postgresql.ARRAY(sa.LargeBinary()), nullable=True))
    op.add_column("delivery", sa.Column("give_up_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        "UPDATE delivery SET person_hashes = ARRAY[person_hash], give_up_at = created_at + interval '7 days',"
        " due_at = coalesce(leased_until, due_at)"
    )
    op.alter_column("delivery", "person_hashes", nullable=False)
    op.alter_column("delivery", "give_up_at", nullable=False)
    op.drop_column("delivery", "person_hash")
    op.drop_column("delivery", "leased_until")

    op.add_column("delivery", sa.Column("crashes", sa.Integer(), server_default="0", nullable=False))
    op.add_column("delivery", sa.Column("in_doubt", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("delivery", sa.Column("superseded", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("delivery", sa.Column("sealed_password", sa.LargeBinary(), nullable=True))
    op.create_index(
        "ix_delivery_unsettled", "delivery", ["integration_id", "state", "due_at"], postgresql_where=UNSETTLED
    )
    op.create_index(
        "ix_delivery_person",
        "delivery",
        ["person_hashes"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
        postgresql_where=UNSETTLED,
    )
