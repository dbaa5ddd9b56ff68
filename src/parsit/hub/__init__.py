"""Models on the Hub: an id becomes a folder, a folder becomes a repository with a card.

`fetch.py` reads, `push.py` writes, `card.py` says in words what a folder holds, `tasks.py` what a model can do;
`shipped.py` is the model that comes in the package. Nothing here knows a tensor, so that a
wrong name is answered before torch is imported.
"""

from parsit.hub.fetch import HubError, fetch, is_parsit_id, looks_like_id, model_folder, nearest_folder
from parsit.hub.shipped import MODEL_VARIABLE, SHIPPED, default_model, is_shipped, named_or_default, shipped_folder
from parsit.hub.tasks import TASKS, require_asking, require_reading, tasks_of

__all__ = [
    "MODEL_VARIABLE",
    "SHIPPED",
    "TASKS",
    "HubError",
    "default_model",
    "fetch",
    "is_parsit_id",
    "is_shipped",
    "looks_like_id",
    "model_folder",
    "named_or_default",
    "nearest_folder",
    "require_asking",
    "require_reading",
    "shipped_folder",
    "tasks_of",
]
