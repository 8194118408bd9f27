"""Settings to test with, as an admin would write them: one TOML file, applied as `flask config apply` does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import tomlkit
from sqlalchemy.orm import Session

from widget import settings_file
from widget.openfield.sandbox import APPLICATION, TENANT

Entry = dict[str, Any]

FIELDS: list[Entry] = [
    {"variable": "email", "mandatory": True, "prefilled": "readonly"},
    {"variable": "civility", "mandatory": True},
    {"variable": "firstname", "mandatory": True},
    {"variable": "lastname", "mandatory": True},
    {"variable": "gender"},
    {"variable": "birthday"},
    {"variable": "address"},
    {"variable": "zipcode"},
    {"variable": "locality"},
    {"variable": "country", "mandatory": True},
]

OPTINS: list[Entry] = [
    {
        "variable": "optin_newsletter",
        "code": "Newsletter",
        "wording": {
            "fr": "Je souhaite recevoir la lettre d'information.",
            "nl": "Ik wil de nieuwsbrief ontvangen.",
            "en": "I would like to receive the newsletter.",
            "de": "Ich möchte den Newsletter erhalten.",
        },
    },
    {
        "variable": "optin_partners",
        "code": "Partners",
        "wording": {
            "fr": "Les partenaires peuvent m'écrire.",
            "nl": "De partners mogen mij schrijven.",
            "en": "The partners may write to me.",
            "de": "Die Partner dürfen mir schreiben.",
        },
    },
]


def settings(*, openfield_url: str, origins: Collection[str], **kinds: list[Entry]) -> dict[str, list[Entry]]:
    """The integration "acme" on everything, the website "news", the master form "contest", no campaign.

    Args:
        openfield_url: the webservice's address.
        origins: what may embed.
        kinds: entries of a kind (`campaign`, `push_rule`, …) in the place of these.
    """
    return {
        "integration": [integration(openfield_url)],
        "website": [{"slug": "news", "name": "Acme News", "origins": list(origins), "language": "en"}],
        "master_form": [{"slug": "contest", "name": "Contest", "fields": FIELDS, "optins": OPTINS}],
        "push_rule": [{"scope": "default", "integration": "acme"}],
        **kinds,
    }


def integration(openfield_url: str, **keys: object) -> Entry:
    """An integration called "acme"; `keys` are set over it."""
    return {
        "name": "acme",
        "enabled": True,
        "openfield_url": openfield_url,
        "id_tenant": TENANT,
        "id_application": APPLICATION,
        "forgot_password_url": f"{openfield_url}/reset-password",
        **keys,
    }


def campaign(slug: str = "summer", **keys: object) -> Entry:
    """A campaign of the website "news" with the form "contest"; `keys` are set over it, None leaves one out."""
    entry = {"slug": slug, "name": "Summer contest", "website": "news", "master_form": "contest", "language": "en"}
    return {name: value for name, value in (entry | keys).items() if value is not None}


def apply(session: Session, settings: Mapping[str, list[Entry]], private_hosts: Collection[str]) -> None:
    """Applies them and commits.

    Raises:
        WrongFile: the settings don't hold together.
    """
    text = tomlkit.dumps(settings)
    known = settings_file.stored(session)
    settings_file.apply(session, settings_file.parse(text, private_hosts=private_hosts, known=known))
    session.commit()
