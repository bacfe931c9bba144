"""Whose soft prompts there are: users' and items'."""

from __future__ import annotations

from dataclasses import dataclass

from puma_hub.errors import ConfigurationError, shown
from puma_hub.tasks.template import ITEM, USER


@dataclass(frozen=True)
class Owners:
    """Those who have soft prompts.

    Args:
        name: ``users`` or ``items``.
        slot: the soft slot of a template that their prompts take.
        column: the column of interactions with their ids.
    """

    name: str
    slot: str
    column: str

    @property
    def others(self) -> Owners:
        """Those whose prompts stand in the other slot."""
        return ITEMS if self is USERS else USERS


USERS, ITEMS = Owners("users", USER, "user_id"), Owners("items", ITEM, "item_id")
_OWNERS = {owners.name: owners for owners in (USERS, ITEMS)}


def owners_of(name: object) -> Owners:
    """The owners called ``name``.

    Raises:
        ConfigurationError: there are none.
    """
    if not isinstance(name, str) or name not in _OWNERS:
        raise ConfigurationError(f"prompts belong to {' or '.join(_OWNERS)}, not to {shown(name)}")
    return _OWNERS[name]
