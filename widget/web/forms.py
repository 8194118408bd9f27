"""The forms that a participant fills in: log-in, and the campaign's form as its master form sets it.

Not here: how a field reads what was typed (`fields`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from flask_babel import gettext
from flask_babel import lazy_gettext as _
from werkzeug.datastructures import MultiDict
from wtforms import Field, Form

from widget import campaigns
from widget.models import Campaign, Entrance
from widget.participation import Decision
from widget.profile import ACCOUNT, MAX_LENGTH, MAX_PASSWORD_LENGTH, Profile, Value, Variable
from widget.rules import Field as FieldSetting
from widget.rules import Prefilled
from widget.web import i18n
from widget.web.fields import (
    AddressField,
    Answered,
    BirthdayField,
    CivilityField,
    CountryField,
    GenderField,
    LineField,
    OptInField,
    SecretField,
    choice_labels,
)

FIELDS: Mapping[Variable, type[Field]] = {
    Variable.EMAIL: AddressField,
    Variable.PASSWORD: SecretField,
    Variable.COUNTRY: CountryField,
    Variable.GENDER: GenderField,
    Variable.BIRTHDAY: BirthdayField,
    Variable.CIVILITY: CivilityField,
}
"""The variables that are more than a line of text."""

AUTOCOMPLETE: Mapping[Variable, str] = {
    Variable.EMAIL: "email",
    Variable.USERNAME: "username",
    Variable.PASSWORD: "new-password",
    Variable.FIRSTNAME: "given-name",
    Variable.LASTNAME: "family-name",
    Variable.COUNTRY: "country",
    Variable.LOCALITY: "address-level2",
    Variable.ZIPCODE: "postal-code",
    Variable.ADDRESS: "street-address",
    Variable.GENDER: "sex",
    Variable.BIRTHDAY: "bday",
    Variable.CIVILITY: "honorific-prefix",
}
"""The tokens of the HTML standard (4.10.18.7) that let browsers and password managers fill in a field."""


LABELS: Mapping[Variable, object] = {
    Variable.EMAIL: _("E-mail address"),
    Variable.USERNAME: _("User name"),
    Variable.PASSWORD: _("Password"),
    Variable.FIRSTNAME: _("First name"),
    Variable.LASTNAME: _("Last name"),
    Variable.COUNTRY: _("Country"),
    Variable.LOCALITY: _("Town or city"),
    Variable.ZIPCODE: _("Postcode"),
    Variable.ADDRESS: _("Street and number"),
    Variable.GENDER: _("Gender"),
    Variable.BIRTHDAY: _("Date of birth"),
    Variable.CIVILITY: _("Title"),
}
"""What a field is called where the form says nothing else."""


class LoginForm(Form):
    """User name (or e-mail address) and password."""

    username = LineField(
        validators=[Answered()],
        render_kw={
            "autocomplete": "username",
            "autocapitalize": "none",
            "spellcheck": "false",
            "maxlength": MAX_LENGTH,
        },
    )
    password = SecretField(
        validators=[Answered()], render_kw={"autocomplete": "current-password", "maxlength": MAX_PASSWORD_LENGTH}
    )

    def __init__(self, formdata: MultiDict[str, str] | None = None) -> None:
        super().__init__(formdata)
        self.username.label.text = gettext("User name or e-mail address")
        self.password.label.text = gettext("Password")


class CampaignForm(Form):
    """A campaign's form, for one participant. Made by `campaign_form`.

    Attributes:
        account, asked, optins: the fields, in order, as a page shows them.
        readonly: label and text of what is shown and cannot be changed.
        shown: what is known of the participant and stays as it is: read-only or hidden.
        variables: those that the participant answers.
        edition: tells one set of opt-in wordings from another; it goes along with the form, as `edition`.
    """

    account: Sequence[Field]
    asked: Sequence[Field]
    optins: Sequence[Field]
    readonly: Sequence[tuple[str, str]]
    shown: Mapping[Variable, Value]
    variables: frozenset[Variable]
    wordings: Sequence[tuple[str, str, str]]
    edition: str
    posted: Mapping[str, str]

    def profile(self) -> Profile:
        """What the participant answered, with what was only shown. Valid after `validate()`."""
        answers = {variable.value: self[variable.value].data for variable in self.variables}
        return Profile(**{variable.value: value for variable, value in self.shown.items()} | answers)

    def decisions(self) -> list[Decision]:
        """Each opt-in with the wording that stood beside its box."""
        return [
            Decision(variable, code, wording, granted=bool(self[variable].data))
            for variable, code, wording in self.wordings
        ]

    def was_reworded(self) -> bool:
        """Whether the boxes were ticked beside other words than today's. A post without `edition` says nothing."""
        return self.posted.get("edition", self.edition) != self.edition

    def without_ticks(self) -> CampaignForm:
        """The same form, its boxes empty."""
        for field in self.optins:
            field.data = False
        return self

    def typed(self) -> dict[str, str]:
        """What was typed, but for the password: variable → text, to be given back as `formdata`."""
        secret = Variable.PASSWORD.value
        return {name: field.raw_data[0] for name, field in self._fields.items() if name != secret and field.raw_data}

    def refuse(self, variable: Variable, sentence: str) -> bool:
        """Puts an error at the variable's field. False when the participant has no such field."""
        if variable not in self.variables:
            return False
        field = self[variable.value]
        field.errors = [*field.errors, sentence]
        return True


def campaign_form(
    campaign: Campaign, entrance: Entrance, known: Profile, formdata: Mapping[str, str] | MultiDict[str, str] | None
) -> CampaignForm:
    """The campaign's form as one participant gets it.

    A field's setting *read-only* or *hidden* is about a prefilled value: where there is none that fits the field,
    the field is asked like any other. What is read-only or hidden has no input, so no post can change it.

    Args:
        known: what Openfield says of the participant; empty but for Entrance.LOGIN.
        formdata: what was posted or kept; None for a fresh form.
    """
    settings = {setting.variable: setting for setting in campaigns.fields(campaign.master_form)}
    account = ACCOUNT if entrance is Entrance.SIGNUP else ()
    settings.pop(Variable.PASSWORD, None)
    asked, readonly, shown = _split(settings, account, known, campaign.language)
    definition: dict[str, Any] = {}
    for variable in account:
        setting = settings.get(variable) or FieldSetting(variable=variable)
        definition[variable.value] = _field(setting, mandatory=True, language=campaign.language)
    for setting in asked:
        definition[setting.variable.value] = _field(setting, mandatory=setting.mandatory, language=campaign.language)
    wordings = []
    for optin in campaigns.optins(campaign.master_form):
        wording = optin.wording[campaign.language]
        validators = [Answered()] if optin.mandatory else []
        definition[optin.variable] = OptInField(wording, validators)
        wordings.append((optin.variable, optin.code, wording))

    form: CampaignForm = type("ThisCampaignForm", (CampaignForm,), definition)(
        MultiDict(formdata) if formdata is not None else None,
        data={variable.value: value for variable, value in known.items()},
    )
    form.account = [form[variable.value] for variable in account]
    form.asked = [form[setting.variable.value] for setting in asked]
    form.optins = [form[variable] for variable, _, _ in wordings]
    form.readonly, form.shown, form.wordings = readonly, shown, wordings
    form.posted = formdata or {}
    form.edition = hashlib.sha256(repr(wordings).encode()).hexdigest()[:16] if wordings else ""
    form.variables = frozenset([*account, *(setting.variable for setting in asked)])
    return form


def _split(
    settings: Mapping[Variable, FieldSetting], account: Sequence[Variable], known: Profile, language: str
) -> tuple[list[FieldSetting], list[tuple[str, str]], dict[Variable, Value]]:
    """The fields to ask, those to show, and the values that stay as they are."""
    asked: list[FieldSetting] = []
    readonly: list[tuple[str, str]] = []
    shown: dict[Variable, Value] = {}
    for variable, setting in settings.items():
        value = known[variable]
        if variable in account:
            continue
        if value is None or setting.prefilled is Prefilled.EDITABLE:
            asked.append(setting)
            continue
        shown[variable] = value
        if setting.prefilled is Prefilled.READONLY:
            readonly.append((_label(setting, language), _text(setting, value, language)))
    return asked, readonly, shown


def _field(setting: FieldSetting, *, mandatory: bool, language: str) -> Any:
    variable = setting.variable
    kind = FIELDS.get(variable, LineField)
    attributes: dict[str, Any] = {"autocomplete": AUTOCOMPLETE[variable]}
    if issubclass(kind, LineField):
        attributes["maxlength"] = MAX_LENGTH
    if variable is Variable.PASSWORD:
        attributes["maxlength"] = MAX_PASSWORD_LENGTH
    if variable is Variable.USERNAME:
        attributes |= {"autocapitalize": "none", "spellcheck": "false"}
    kwargs: dict[str, Any] = {"description": _help(setting, language), "render_kw": attributes}
    if variable in (Variable.GENDER, Variable.CIVILITY):
        kwargs["wording"] = _choice_wording(setting, language)
    return kind(_label(setting, language), [Answered()] if mandatory else [], **kwargs)


def _label(setting: FieldSetting, language: str) -> str:
    return setting.label.get(language) or str(LABELS[setting.variable])


def _help(setting: FieldSetting, language: str) -> str:
    """What the marketer says, after how a date is written: nobody can guess that."""
    own = gettext("Day, month, year: for example 31/12/1990.") if setting.variable is Variable.BIRTHDAY else ""
    return f"{own} {setting.help.get(language, '')}".strip()


def _choice_wording(setting: FieldSetting, language: str) -> dict[str, str]:
    return {value: words[language] for value, words in setting.choices.items() if language in words}


def _text(setting: FieldSetting, value: Value, language: str) -> str:
    """A value as a participant reads it."""
    if isinstance(value, date):
        return i18n.written_date(value)
    if setting.variable is Variable.COUNTRY:
        return i18n.country_names(language)[value]
    if setting.variable in (Variable.GENDER, Variable.CIVILITY):
        return _choice_wording(setting, language).get(value) or choice_labels()[value]
    return str(value)
