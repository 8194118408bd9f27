"""The tables: what marketers set, what participants sent, what is on its way to Openfield.

Not here: what may be written in them (`rules` for settings, `participation` and `deliveries` for the rest).
Times are aware and in UTC. Columns called `sealed_*` hold what `vault.Vault.seal` gave; `*_hash` what its digest gave.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """Everything below; constraints are named, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own declaration
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        dict[str, str]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[str]: ARRAY(String),
        list[bytes]: ARRAY(LargeBinary),
        bytes: LargeBinary,
    }


def _enum(kind: type[StrEnum]) -> Enum:
    """A text column that holds the enum's values, with a check."""
    return Enum(
        kind, native_enum=False, length=16, create_constraint=True, name=kind.__name__.lower(),
        values_callable=lambda members: [member.value for member in members],
    )  # fmt: skip


# What marketers and admins set -----------------------------------------------------------------------------------


class Integration(Base):
    """A customer's Openfield: where it is, who we are there, and what its protocol calls things."""

    __tablename__ = "integration"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    enabled: Mapped[bool]
    openfield_url: Mapped[str]
    id_tenant: Mapped[str]
    id_application: Mapped[str]
    forgot_password_url: Mapped[str]
    operations: Mapped[dict[str, str]]
    """Only what differs from the defaults: operation → path relative to `openfield_url`."""
    parameters: Mapped[dict[str, str]]
    """Only what differs from the defaults: variable → dotted parameter."""

    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many deliveries failed in a row; this and the next two are the integration's circuit, see `circuit`."""
    rests_until: Mapped[datetime | None]
    trouble: Mapped[str | None]
    """What an admin has to mend before anything can be delivered."""


class Website(Base):
    """A site that embeds campaigns."""

    __tablename__ = "website"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    origins: Mapped[list[str]]
    language: Mapped[str]


class MasterForm(Base):
    """A form that campaigns share. `fields`, `optins` and `legal` are as `rules` writes them."""

    __tablename__ = "master_form"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    fields: Mapped[list[dict[str, Any]]]
    optins: Mapped[list[dict[str, Any]]]
    legal: Mapped[dict[str, str]]
    """Language → text."""


class Campaign(Base):
    """One form on one website, in one language, for a time."""

    __tablename__ = "campaign"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    website_id: Mapped[int] = mapped_column(ForeignKey("website.id"), index=True)
    master_form_id: Mapped[int] = mapped_column(ForeignKey("master_form.id"), index=True)
    language: Mapped[str]
    opens_at: Mapped[datetime | None]
    closes_at: Mapped[datetime | None]
    texts: Mapped[dict[str, str]]
    """`intro` and `thanks`, in the campaign's language; either may be missing."""

    website: Mapped[Website] = relationship(lazy="joined", innerjoin=True)
    master_form: Mapped[MasterForm] = relationship(lazy="joined", innerjoin=True)


class Scope(StrEnum):
    """How far a push rule reaches; the most specific one wins."""

    DEFAULT = "default"
    WEBSITE = "website"
    MASTER_FORM = "master_form"
    CAMPAIGN = "campaign"


class PushRule(Base):
    """Puts an integration, or none, on everything in its scope."""

    __tablename__ = "push_rule"
    __table_args__ = (
        UniqueConstraint("scope", "website_id", "master_form_id", "campaign_id", postgresql_nulls_not_distinct=True),
        CheckConstraint(
            "(scope = 'website') = (website_id IS NOT NULL)"
            " AND (scope = 'master_form') = (master_form_id IS NOT NULL)"
            " AND (scope = 'campaign') = (campaign_id IS NOT NULL)",
            name="target",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[Scope] = mapped_column(_enum(Scope))
    website_id: Mapped[int | None] = mapped_column(ForeignKey("website.id"))
    master_form_id: Mapped[int | None] = mapped_column(ForeignKey("master_form.id"))
    campaign_id: Mapped[int | None] = mapped_column(ForeignKey("campaign.id"))
    integration_id: Mapped[int | None] = mapped_column(ForeignKey("integration.id"), index=True)
    """None: the rule switches Openfield off for its scope."""

    integration: Mapped[Integration | None] = relationship(lazy="joined")
    website: Mapped[Website | None] = relationship()
    master_form: Mapped[MasterForm | None] = relationship()
    campaign: Mapped[Campaign | None] = relationship()


# What participants send ------------------------------------------------------------------------------------------


class Entrance(StrEnum):
    """How a participant came to the form."""

    LOGIN = "login"
    SIGNUP = "signup"
    OPEN = "open"
    """No push rule: the form alone."""


class Visit(Base):
    """One step of one participant's journey: what its handle may be exchanged for, once.

    A journey (`journey_id`) is the chain of visits from log-in or sign-up to the end; each post uses one up and
    opens the next. A used visit keeps a hash of the body that used it and the answer it was given, so that the same
    post sent again gets the same answer.
    """

    __tablename__ = "visit"
    __table_args__ = (Index("ix_visit_expires_at", "expires_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    handle_hash: Mapped[bytes] = mapped_column(unique=True)
    journey_id: Mapped[UUID] = mapped_column(index=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    integration_id: Mapped[int | None] = mapped_column(ForeignKey("integration.id"))
    entrance: Mapped[Entrance] = mapped_column(_enum(Entrance))
    sealed_record: Mapped[bytes | None]
    """The record that log-in read, for Entrance.LOGIN."""
    began_at: Mapped[datetime]
    """When the journey began."""
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    body_hash: Mapped[bytes | None]
    sealed_answer: Mapped[bytes | None]


class Participation(Base):
    """What a participant sent and was thanked for. At most one per journey."""

    __tablename__ = "participation"
    __table_args__ = (Index("ix_participation_campaign_id_taken_at", "campaign_id", "taken_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    journey_id: Mapped[UUID] = mapped_column(unique=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    entrance: Mapped[Entrance] = mapped_column(_enum(Entrance))
    language: Mapped[str]
    taken_at: Mapped[datetime]
    sealed_profile: Mapped[bytes]
    """The answers as given, without the password."""
    email_hash: Mapped[bytes | None] = mapped_column(index=True)
    """Finds a person's participations again, for their rights."""

    campaign: Mapped[Campaign] = relationship()
    consents: Mapped[list[Consent]] = relationship(back_populates="participation", cascade="all, delete-orphan")
    delivery: Mapped[Delivery | None] = relationship(back_populates="participation", cascade="all, delete-orphan")


class Consent(Base):
    """What was asked, word for word, and what the participant decided (GDPR art. 7(1))."""

    __tablename__ = "consent"

    id: Mapped[int] = mapped_column(primary_key=True)
    participation_id: Mapped[UUID] = mapped_column(ForeignKey("participation.id", ondelete="CASCADE"), index=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaign.id"))
    variable: Mapped[str]
    code: Mapped[str]
    """The purpose: Openfield's ServiceId."""
    wording: Mapped[str]
    wording_hash: Mapped[str]
    """SHA-256 of the wording's UTF-8, in hexadecimal."""
    language: Mapped[str]
    granted: Mapped[bool]
    decided_at: Mapped[datetime]

    participation: Mapped[Participation] = relationship(back_populates="consents")


class Operation(StrEnum):
    """What a delivery does in Openfield."""

    CREATE = "create"
    UPDATE = "update"


class DeliveryState(StrEnum):
    """How far a delivery has come; `deliveries` says what leads from one to the next."""

    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    BURIED = "buried"


class Delivery(Base):
    """One profile's way to Openfield. The row is the truth; the queue only says when to look at it."""

    __tablename__ = "delivery"
    __table_args__ = (
        Index("ix_delivery_unsettled", "integration_id", "state", "due_at", postgresql_where="state <> 'delivered'"),
        Index(
            "ix_delivery_person",
            "person_hashes",
            postgresql_using="gin",
            postgresql_with={"fastupdate": "off"},
            postgresql_where="state <> 'delivered'",
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True), unique=True)
    """Grows; between two deliveries of one person it says which came first."""
    participation_id: Mapped[UUID] = mapped_column(ForeignKey("participation.id", ondelete="CASCADE"), unique=True)
    integration_id: Mapped[int] = mapped_column(ForeignKey("integration.id"))
    operation: Mapped[Operation] = mapped_column(_enum(Operation))
    person_hashes: Mapped[list[bytes]]
    """Whose record it is: hashes of the PartyId, e-mail addresses, user name. Those that share one go in order."""
    state: Mapped[DeliveryState] = mapped_column(_enum(DeliveryState))
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many attempts in a row broke off: whoever made them never came back to say how they ended."""
    in_doubt: Mapped[bool] = mapped_column(default=False, server_default=false())
    """An earlier attempt may have taken effect, though nobody was told so."""
    superseded: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It was buried, and a later one of the same person has been delivered since."""
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    """When it may be claimed next: the end of its pause, or of the lease under which it is being sent."""
    give_up_at: Mapped[datetime]
    """The end of the time for which it is tried, and for which its password is kept."""
    settled_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    """Why the last attempt failed: one of our own words, never Openfield's."""
    sealed_payload: Mapped[bytes | None]
    """What is to be sent, without the password; wiped when delivered."""
    sealed_password: Mapped[bytes | None]
    """Only in a Create; wiped when delivered, and at `give_up_at`."""

    participation: Mapped[Participation] = relationship(back_populates="delivery")
    integration: Mapped[Integration] = relationship(lazy="joined", innerjoin=True)


# What keeps order ------------------------------------------------------------------------------------------------


class Bucket(Base):
    """A token bucket, found again by the hash of what it limits. See `throttle`."""

    __tablename__ = "bucket"

    key: Mapped[bytes] = mapped_column(primary_key=True)
    tokens: Mapped[float]
    filled_at: Mapped[datetime]
