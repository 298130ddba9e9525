"""What happened, what was learned of it and who may be asked, in one SQLite file.

database.py  where the file is, whether it can be used, how it is opened
schema.py    its tables and the migrations that make them
writer.py    Ledger: attempts and what was learned go in on a thread of their own
appender.py  the open file that they go into
queries.py   what the attempts add up to
memory.py    what was learned, for the next start
owners.py    whose files, responses and other resources are
registry.py  Registry: the keys of each pool, without their secrets
"""

from .database import check_path, default_path
from .registry import Registry
from .writer import Ledger, before_exit

__all__ = ["Ledger", "Registry", "before_exit", "check_path", "default_path"]
