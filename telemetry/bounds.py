"""The bounds of registers in columns, for decoders of many readings at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from telemetry.registers import BY_CODE, REGISTERS

# By code; one that is not in the table admits nothing (max < min).
_SIZE = max(BY_CODE) + 2
MINIMA: npt.NDArray[np.int64] = np.zeros(_SIZE, np.int64)
MAXIMA: npt.NDArray[np.int64] = np.full(_SIZE, -1, np.int64)
for _register in REGISTERS:
    MINIMA[_register.code] = _register.minimum
    MAXIMA[_register.code] = _register.maximum
