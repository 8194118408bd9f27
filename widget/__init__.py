"""The product, as a map.

A participant's way runs top to bottom through these modules; `docs/ARCHITECTURE.md` draws it.

    app.py             create_app(settings): the assembly
    cli.py, demo.py    flask serve | worker | sandbox | demo | db | config | deliveries
    web/               door 1, browsers: the iframe's pages, forms and security policy
    participation.py   the participant's verbs: log_in, start_signup, take_part
    campaigns.py       the marketer's verbs: find a campaign, which push rule applies
    rules.py           what a valid setting is; settings_file.py reads and writes them as TOML
    visits.py          the iframe's state without cookies: handles
    deliveries.py      the outbox: what is to reach Openfield, and how far it has come
    circuit.py         whether an integration's deliveries may go now
    jobs.py            the worker, which sends what could not be sent at once
    backlog.py         how the outbox stands, for those who watch it
    openfield/         door 2, the webservice; nobody else knows its words
    throttle.py        token buckets
    vault.py           seals what is personal, hashes what is secret
    profile.py         Profile, Gender, Civility, the variables: pure values
    models.py, db.py   tables, and the database they live in; postgres.py runs the embedded one, migrations/ the changes
    wiring.py          what one process runs with, wired once
    logs.py            what is logged; metrics.py: what is counted
    config.py          the only reader of the environment

`web` and `openfield` never import each other: that sentence is the architecture.
"""
