"""What formats are called in a configuration; apart from their decoders, which only receivers need.

A new one has a name here, and a row in ``telemetry.formats.table``.
"""

from __future__ import annotations

# In the order in which they are told; ``auto`` takes each datagram for what its beginning says.
NAMES = ("native", "json", "shelly", "speedwire", "dlms", "line", "auto")
# The multicast groups that devices send to.
GROUPS = {"speedwire": "239.12.255.254"}
