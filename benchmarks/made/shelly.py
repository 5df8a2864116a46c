"""Notifications as a house's Shelly devices send them."""

from __future__ import annotations

_PLUG = (
    '{{"src":"shellyplugsg3-{meter:012x}","dst":"*","method":"NotifyStatus","params":{{'
    '"ts":{ts:.2f},"switch:0":{{"id":0,"aenergy":{{"by_minute":[0.000,416.667,416.667],'
    '"minute_ts":{minute},"total":{energy:.3f}}},"ret_aenergy":{{"by_minute":[0.000,0.000,0.000],'
    '"minute_ts":{minute},"total":0.000}},"apower":{power:.1f},"current":{current:.3f},'
    '"voltage":{voltage:.1f}}}}}}}'
)
_PHASE = (
    '"{p}_act_power":{power:.1f},"{p}_aprt_power":{apparent:.1f},"{p}_current":{current:.3f},'
    '"{p}_freq":50.0,"{p}_pf":0.96,"{p}_voltage":{voltage:.1f},'
)
_METER = (
    '{{"src":"shellypro3em-{meter:012x}","dst":"*","method":"NotifyStatus","params":{{'
    '"ts":{ts:.2f},"em:0":{{"id":0,{phases}"n_current":null,"total_act_power":{power:.3f},'
    '"total_aprt_power":{apparent:.3f},"total_current":{current:.3f}}}}}}}'
)
_COUNTER = (
    '{{"src":"shellypro3em-{meter:012x}","dst":"*","method":"NotifyStatus","params":{{'
    '"ts":{ts:.2f},"emdata:0":{{"id":0,{phases}"total_act":{energy:.2f},"total_act_ret":0.00}}}}}}'
)
_COUNTED = '"{p}_total_act_energy":{energy:.2f},"{p}_total_act_ret_energy":0.00,'
_START = 1_780_000_000  # seconds of Unix time


def made(meter: int, turn: int) -> bytes:
    """A datagram of meter number ``meter`` at its turn ``turn``, a second each.

    Every third meter is a three-phase one, which tells its counters at every tenth turn; the others
    are plugs.
    """
    ts = _START + turn + meter % 100 / 100
    power = 25.0 + (7 * meter + turn) % 400
    numbers = {
        "meter": meter,
        "ts": ts,
        "minute": int(ts) // 60 * 60,
        "energy": 1000 * (meter % 50) + turn * 0.417,
        "power": power,
        "apparent": power / 0.96,
        "voltage": 230 + turn % 7 / 10,
        "current": power / 0.96 / 230,
    }
    if meter % 3:
        return _PLUG.format(**numbers).encode()
    part, whole = (_COUNTED, _COUNTER) if turn % 10 == 9 else (_PHASE, _METER)
    phases = "".join(part.format(p=phase, **numbers) for phase in "abc")
    return whole.format(phases=phases, **numbers).encode()
