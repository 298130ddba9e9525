"""What happened, what was learned of it and who may be asked, in one SQLite file.

database.py  where the file is, whether it can be used, how it is opened
schema.py    its tables and the migrations that make them
writer.py    Ledger: attempts and what was learned go in on a thread of their own
journal.py   where attempts are safe until they are in SQLite; records.py: as bytes
appender.py  the open file that they go into
rollups.py   what the attempts of each hour add up to
upkeep.py    clearing away what is old, and checking that the file adds up
exits.py     the end of a process, and its forks
allowances.py  what each process may still spend of a budget
screens.py   what `top` and the page of `usage` ask of the file
served.py    what was served, in the terms of a provider's bill
queries.py   what the attempts add up to
memory.py    what was learned, for the next start
owners.py    whose files, responses and other resources are
registry.py  Registry: the keys of each pool, without their secrets
"""

from .database import check_path, default_path
from .exits import before_exit
from .registry import Registry
from .writer import Ledger

__all__ = ["Ledger", "Registry", "before_exit", "check_path", "default_path"]
