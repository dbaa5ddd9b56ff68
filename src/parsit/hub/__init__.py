"""Models on the Hub: an id becomes a folder, a folder becomes a repository with a card.

`fetch.py` reads, `push.py` writes, `card.py` says in words what a folder holds. Nothing here knows a tensor, so that a
wrong name is answered before torch is imported.
"""

from parsit.hub.fetch import HubError, fetch, is_parsit_id, looks_like_id, model_folder, nearest_folder

__all__ = ["HubError", "fetch", "is_parsit_id", "looks_like_id", "model_folder", "nearest_folder"]
