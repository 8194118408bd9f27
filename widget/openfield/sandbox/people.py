"""The people that a sandbox knows from its start.

Their records are kept unjudged: some hold what old systems leave behind, which could not be sent today.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from widget.openfield.sandbox.message import Json, Number, at


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whom no Create has told about.

    Attributes:
        record: {"Party": …, "Services": …} without a password; what every record must have is added if missing.
        password: what the person logs in with; with None, nobody can.
        locked: a log-in is answered 423.
        about: a few words for whoever tries this person out.
    """

    record: Json
    password: str | None = field(default=None, repr=False)
    locked: bool = False
    about: str = ""

    @property
    def username(self) -> str | None:
        username: str | None = at(self.record, "Party.Login.Username")
        return username

    @property
    def email(self) -> str | None:
        email: str | None = at(self.record, "Party.Email")
        return email


ALICE = Person(
    {
        "Party": {
            "PartyId": "OF-1001",
            "PartyType": "Person",
            "Version": 7,
            "LanguageId": "fr",
            "Email": "alice@example.org",
            "Login": {"Username": "alice", "TwoStep": False},
            "FirstName": "Alice",
            "LastName": "Peeters",
            "Gender": "F",
            "Civility": "MME",
            "BirthDate": "01081990",
            "Address": {
                "Street": "Rue Haute 12",
                "Box": "B3",
                "ZipCode": "1000",
                "City": "Brussels",
                "CountryId": "BEL",
                "Position": {"Latitude": Number("50.840"), "Longitude": Number("4.3480")},
            },
            "LoyaltyTier": "gold",
            "LoyaltyFactor": Number("1.10"),
            "Preferences": {
                "Topics": [{"Name": "cyclisme", "Weight": Number("0.50")}, {"Name": "crème brûlée ☕", "Weight": 2}],
                "Contact": {"Channels": ["email", "post"], "QuietUntil": None},
            },
        },
        "Services": [
            {
                "ActivationDate": "2024-05-17T09:30:00",
                "ServiceId": "Magazine",
                "ServiceStatus": True,
                "ServiceTypeId": "OPTINS",
            }
        ],
    },
    "alice-likes-waffles",
    about="a complete record, with properties that only Openfield knows",
)

BOB = Person(
    {
        "Party": {
            "PartyId": "OF-1002",
            "PartyType": "Person",
            "Version": 1,
            "LanguageId": "nl",
            "Email": "bob@example.org",
            "Login": {"Username": "bob"},
            "Gender": "h",
            "Civility": "Mme",
            "BirthDate": "31022000",
            "Address": {"CountryId": "Belgium"},
        }
    },
    "une gaufre de Liège, s'il vous plaît",
    about="a sparse record, whose old values must not prefill a form",
)

CAROL = Person(
    {
        "Party": {
            "PartyId": "OF-1003",
            "PartyType": "Person",
            "Version": 2,
            "LanguageId": "en",
            "Email": "carol@example.org",
            "Login": {"Username": "carol"},
            "FirstName": "Carol",
            "LastName": "Jones",
        }
    },
    "carol-counts-clouds",
    locked=True,
    about="an account that is locked",
)

PEOPLE = (ALICE, BOB, CAROL)
"""Whom a sandbox knows unless it is told otherwise."""
