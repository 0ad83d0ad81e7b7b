"""What a batch of requests may change for others, the same for every engine."""

from collections.abc import Sequence

from kvqueue_fastapi.model import AtomicWrite, Outcome, Settlement
from kvqueue_fastapi.store.base import Request, SettleRequest


def may_change(requests: Sequence[Request]) -> tuple[bool, bool]:
    """Whether something may have become claimable, and whether a key may read otherwise."""
    changed = keys_changed = False
    for request in requests:
        if isinstance(request, AtomicWrite):
            changed = changed or bool(request.sends or request.settlements)
            keys_changed = keys_changed or bool(request.mutations)
            settlements = request.settlements
        elif isinstance(request, SettleRequest):
            settlements = request.settlements
            changed = changed or any(map(_frees, settlements))
        else:
            continue
        if settlements and not keys_changed:
            keys_changed = any(map(writes_keys, settlements))
    return changed, keys_changed


def types_sent(requests: Sequence[Request]) -> set[str] | None:
    """The types of what may have become claimable; None: they are not known."""
    types: set[str] = set()
    for request in requests:
        if isinstance(request, AtomicWrite):
            if request.settlements:
                return None
            types.update([send.type for send in request.sends])
        elif isinstance(request, SettleRequest) and any(map(_frees, request.settlements)):
            return None
    return types


def writes_keys(settlement: Settlement) -> bool:
    """Whether a key may be written for it."""
    return settlement.outcome is Outcome.DEAD


def _frees(settlement: Settlement) -> bool:
    return settlement.outcome is not Outcome.DONE or settlement.ordering_key is not None
