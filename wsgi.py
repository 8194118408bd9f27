"""The widget as the environment sets it up: what `flask <command>` and WSGI servers load."""

from widget.app import create_app
from widget.config import Settings

app = create_app(Settings.from_env())
