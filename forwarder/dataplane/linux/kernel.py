"""Facts into the kernel: the hands of the data plane.

`execute` makes or unmakes facts one by one and says of each how it went; `host_steps` and `vif_steps` have the step
for every kind.  Something that is gone when it is to be dropped is as wanted.  Nothing here decides what ought to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from forwarder.dataplane.linux import host_steps, marking, vif_steps
from forwarder.dataplane.linux.facts import (
    Fact,
    FrameFilter,
    Guard,
)
from forwarder.dataplane.linux.guards import GuardError, Guards
from forwarder.dataplane.linux.host import Fou
from forwarder.dataplane.linux.plan import Drop, Put
from forwarder.dataplane.linux.shaping import ShapingError
from forwarder.dataplane.linux.steps import Hands, Step
from forwarder.dataplane.netlink.codec import NetlinkError
from forwarder.dataplane.netlink.socket import Netlink

_PUT: Final[dict[type[Fact], Step]] = {**host_steps.PUT, **marking.PUT, **vif_steps.PUT}
_DROP: Final[dict[type[Fact], Step]] = {**host_steps.DROP, **marking.DROP, **vif_steps.DROP}

Op: TypeAlias = Put | Drop
StepError: TypeAlias = NetlinkError | GuardError | ShapingError | OSError
STEP_ERRORS: Final = (NetlinkError, GuardError, ShapingError, OSError)


class Kernel:
    def __init__(self, netlink: Netlink, fou: Fou, guards: Guards) -> None:
        self._hands = Hands(netlink, fou, guards)

    def execute(self, ops: Sequence[Op]) -> Iterator[tuple[Op, StepError]]:
        """Do them in order, yielding each that failed. All that is the guards' and stands together changes at once."""
        start = 0
        while start < len(ops):
            end = start + 1
            if isinstance(ops[start].fact, Guard | FrameFilter):
                while end < len(ops) and isinstance(ops[end].fact, Guard | FrameFilter):
                    end += 1
            try:
                self._step(ops[start:end])
            except STEP_ERRORS as error:
                for op in ops[start:end]:
                    yield op, error
            start = end

    def _step(self, ops: Sequence[Op]) -> None:
        op = ops[0]
        if isinstance(op.fact, Guard | FrameFilter):
            puts = [each.fact for each in ops if isinstance(each, Put)]
            self._hands.guards.change(puts, [each.fact for each in ops if isinstance(each, Drop)])
        elif isinstance(op, Put):
            _PUT[type(op.fact)](self._hands, op.fact)
        else:
            try:
                _DROP[type(op.fact)](self._hands, op.fact)
            except FileNotFoundError:
                pass  # the settings went with the interface
            except NetlinkError as error:
                if not error.is_gone:
                    raise
