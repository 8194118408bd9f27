"""The first tables, and the queue's."""

import sqlalchemy as sa
from alembic import op
from procrastinate.schema import SchemaManager
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "bucket",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("filled_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_bucket")),
    )
    op.create_table(
        "integration",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("openfield_url", sa.String(), nullable=False),
        sa.Column("id_tenant", sa.String(), nullable=False),
        sa.Column("id_application", sa.String(), nullable=False),
        sa.Column("forgot_password_url", sa.String(), nullable=False),
        sa.Column("operations", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("parameters", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_integration")),
        sa.UniqueConstraint("name", name=op.f("uq_integration_name")),
    )
    op.create_table(
        "master_form",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("optins", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("legal", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_master_form")),
        sa.UniqueConstraint("slug", name=op.f("uq_master_form_slug")),
    )
    op.create_table(
        "website",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("origins", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_website")),
        sa.UniqueConstraint("slug", name=op.f("uq_website_slug")),
    )
    op.create_table(
        "campaign",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("website_id", sa.Integer(), nullable=False),
        sa.Column("master_form_id", sa.Integer(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("opens_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("texts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["master_form_id"], ["master_form.id"], name=op.f("fk_campaign_master_form_id")),
        sa.ForeignKeyConstraint(["website_id"], ["website.id"], name=op.f("fk_campaign_website_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaign")),
        sa.UniqueConstraint("slug", name=op.f("uq_campaign_slug")),
    )
    op.create_index(op.f("ix_campaign_master_form_id"), "campaign", ["master_form_id"], unique=False)
    op.create_index(op.f("ix_campaign_website_id"), "campaign", ["website_id"], unique=False)
    op.create_table(
        "participation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("journey_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column(
            "entrance",
            sa.Enum("login", "signup", "open", name="entrance", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sealed_profile", sa.LargeBinary(), nullable=False),
        sa.Column("email_hash", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_participation_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_participation")),
        sa.UniqueConstraint("journey_id", name=op.f("uq_participation_journey_id")),
    )
    op.create_index("ix_participation_campaign_id_taken_at", "participation", ["campaign_id", "taken_at"], unique=False)
    op.create_index(op.f("ix_participation_email_hash"), "participation", ["email_hash"], unique=False)
    op.create_table(
        "push_rule",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "scope",
            sa.Enum(
                "default",
                "website",
                "master_form",
                "campaign",
                name="scope",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("website_id", sa.Integer(), nullable=True),
        sa.Column("master_form_id", sa.Integer(), nullable=True),
        sa.Column("campaign_id", sa.Integer(), nullable=True),
        sa.Column("integration_id", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "(scope = 'website') = (website_id IS NOT NULL) AND (scope = 'master_form') = (master_form_id IS NOT NULL) AND (scope = 'campaign') = (campaign_id IS NOT NULL)",
            name=op.f("ck_push_rule_target"),
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_push_rule_campaign_id")),
        sa.ForeignKeyConstraint(["integration_id"], ["integration.id"], name=op.f("fk_push_rule_integration_id")),
        sa.ForeignKeyConstraint(["master_form_id"], ["master_form.id"], name=op.f("fk_push_rule_master_form_id")),
        sa.ForeignKeyConstraint(["website_id"], ["website.id"], name=op.f("fk_push_rule_website_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_push_rule")),
        sa.UniqueConstraint(
            "scope",
            "website_id",
            "master_form_id",
            "campaign_id",
            name=op.f("uq_push_rule_scope_website_id_master_form_id_campaign_id"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(op.f("ix_push_rule_integration_id"), "push_rule", ["integration_id"], unique=False)
    op.create_table(
        "visit",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("handle_hash", sa.LargeBinary(), nullable=False),
        sa.Column("journey_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("integration_id", sa.Integer(), nullable=True),
        sa.Column(
            "entrance",
            sa.Enum("login", "signup", "open", name="entrance", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("sealed_record", sa.LargeBinary(), nullable=True),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("body_hash", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_answer", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_visit_campaign_id")),
        sa.ForeignKeyConstraint(["integration_id"], ["integration.id"], name=op.f("fk_visit_integration_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_visit")),
        sa.UniqueConstraint("handle_hash", name=op.f("uq_visit_handle_hash")),
    )
    op.create_index("ix_visit_expires_at", "visit", ["expires_at"], unique=False)
    op.create_index(op.f("ix_visit_journey_id"), "visit", ["journey_id"], unique=False)
    op.create_table(
        "consent",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("participation_id", sa.Uuid(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("variable", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("wording", sa.String(), nullable=False),
        sa.Column("wording_hash", sa.String(), nullable=False),
        sa.Column("language", sa.String(), nullable=False),
        sa.Column("granted", sa.Boolean(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], name=op.f("fk_consent_campaign_id")),
        sa.ForeignKeyConstraint(
            ["participation_id"], ["participation.id"], name=op.f("fk_consent_participation_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consent")),
    )
    op.create_index(op.f("ix_consent_participation_id"), "consent", ["participation_id"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("participation_id", sa.Uuid(), nullable=False),
        sa.Column("integration_id", sa.Integer(), nullable=False),
        sa.Column(
            "operation",
            sa.Enum("create", "update", name="operation", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("person_hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "waiting",
                "sending",
                "delivered",
                "buried",
                name="deliverystate",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("sealed_payload", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["integration_id"], ["integration.id"], name=op.f("fk_delivery_integration_id")),
        sa.ForeignKeyConstraint(
            ["participation_id"], ["participation.id"], name=op.f("fk_delivery_participation_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("participation_id", name=op.f("uq_delivery_participation_id")),
    )
    op.create_index(
        "ix_delivery_due", "delivery", ["due_at"], unique=False, postgresql_where="state IN ('waiting', 'sending')"
    )
    op.create_index("ix_delivery_person", "delivery", ["integration_id", "person_hash", "created_at"], unique=False)
    # Many statements in one text: without parameters, psycopg sends them as they are.
    op.get_bind().exec_driver_sql(SchemaManager.get_schema(), execution_options={"no_parameters": True})
