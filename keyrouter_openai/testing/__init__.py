"""A provider to test against: a real HTTP server that limits, runs dry, and fails as told.

    model.py      the provider's books: accounts, keys, credit; pure, also for simulations in virtual time
    account.py    one account's books (with limits.py, cache.py, and headers.py, which shows the limits)
    faults.py     what can go wrong, as data
    endpoints.py  what each endpoint answers (with responses.py, tools.py, generate.py)
    resources.py  files, batches and all else that a project keeps (with project.py, makers.py, forms.py)
    bills.py      what is billed, and the admin API that tells it
    websocket.py  what is said over websockets
    sdk_routes.py what is answered for all other routes of the SDK: as little as its types allow
    handler.py    from a request to its answer and its record
    server.py     HTTP
    simulator.py  the one class that puts them together

It needs the OpenAI SDK for those other routes alone. `python -m keyrouter_openai.testing --help` runs it as a command.
"""

from .account import SimAccount
from .bills import BillLine
from .faults import FAULTS, Fault, redirect, respond
from .handler import Call
from .model import Latency
from .simulator import ProviderSimulator

__all__ = ["FAULTS", "BillLine", "Call", "Fault", "Latency", "ProviderSimulator", "SimAccount", "redirect", "respond"]
