"""How many prefixes a neighbor may send, and what it meets when it sends more (RFC 4271 section 6.7).

Counted is what is held of a family in this session, by NLRI and path identifier, after each UPDATE: a route that
replaces another counts once, one that was refused not at all, nor does one of an earlier session that has not been
said again.  A limit reached, or nearly, is noted once a session.
"""

from __future__ import annotations

import math
import struct

from routeserver.bgp.errors import Cease, ErrorCode
from routeserver.bgp.events import BgpEvent
from routeserver.bgp.iana import Family
from routeserver.bgp.session import BgpSession
from routeserver.notices import Notice
from routeserver.settings import OnExcess, PrefixLimit
from routeserver.speaker.neighbor import Neighbor


def check(neighbor: Neighbor, limit: PrefixLimit, family: Family, notices: list[Notice]) -> bool:
    """Note what there is to say of the neighbor's count; whether its session has to end."""
    count = neighbor.adj_in.count(family)
    if not count or count * 100 < limit.limit * limit.warn_at:
        return False
    is_excess = count > limit.limit
    event = "bgp.prefixes.exceeded" if is_excess else "bgp.prefixes.many"
    if neighbor.is_news(family, event):
        facts: dict[str, object] = {"afi_safi": family.label, "prefixes": count, "limit": limit.limit}
        if is_excess:
            facts["action"] = limit.on_excess.value
        notices.append(Notice(event, neighbor.settings.address, facts))
    return is_excess and limit.on_excess is not OnExcess.WARN


def cease(session: BgpSession, limit: PrefixLimit, family: Family) -> list[BgpEvent]:
    """Close the session; what that brought about. The data are the family and the limit (RFC 4486 section 4)."""
    data = struct.pack(">HBI", family.afi, family.safi, limit.limit)
    reason = f"more than {limit.limit} prefixes of {family.label}"
    retry_after = limit.restart_after if limit.on_excess is OnExcess.RESTART else math.inf
    return session.close(ErrorCode.CEASE, Cease.MAX_PREFIXES, data, reason, retry_after)
