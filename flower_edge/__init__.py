"""The edge with Flower: its phone-home off, and the translation between its records and our messages.

Importing anything from here switches Flower's telemetry and update check off for this process and the processes that
it starts.
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.supercore import telemetry

telemetry.FLWR_TELEMETRY_ENABLED = "0"  # an import of Flower before ours has read it already
