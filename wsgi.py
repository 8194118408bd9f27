"""The widget as the environment sets it up: what `flask <command>` and WSGI servers load."""

from widget.app import create_app
from widget.config import BadEnvironment, Settings

try:
    app = create_app(Settings.from_env())
except BadEnvironment as error:
    raise SystemExit(f"Error: {error}") from None
