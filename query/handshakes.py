"""What becomes of a client's handshakes: a refusal is told at once, not after a long silence."""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from query.credentials import Credentials
from query.sockets import Socket
from query.transport import BusError

# A service that is killed may end a handshake or two; one that expects something else ends each.
_ENOUGH = 3
_EVENTS = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.DISCONNECTED
    | zmq.Event.CLOSED
)


class Handshakes:
    """The events of one client's socket. Belongs to the thread of the socket."""

    def __init__(self, sock: Socket, endpoint: str, me: Credentials | None) -> None:
        """Begin before the socket connects."""
        self.connected = False
        self._endpoint, self._me = endpoint, me
        self._ended = 0  # handshakes that the other side ended, one after another
        self._trouble: BusError | None = None
        self._socket = sock
        self.monitor: Socket = sock.get_monitor_socket(_EVENTS)

    def close(self) -> None:
        """Hear no more; before the socket is closed."""
        self._socket.disable_monitor()
        self.monitor.close()

    def hear(self) -> None:
        """Take in what has happened.

        Raises BusError if this client is not let in, and then ZeroMQ may never connect again: the
        socket has to be made anew.
        """
        while self.monitor.poll(0):
            event = recv_monitor_message(self.monitor)
            self._take(event["event"], event["value"])
        if self._trouble is not None:
            raise self._trouble

    def _take(self, event: int, value: int) -> None:
        if event in (zmq.Event.HANDSHAKE_SUCCEEDED, zmq.Event.CLOSED):  # closed: nobody listens
            self.connected = event == zmq.Event.HANDSHAKE_SUCCEEDED
            self._ended, self._trouble = 0, None
        elif event == zmq.Event.DISCONNECTED:
            self.connected = False
        elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            self._trouble = self._refused()
        elif event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            self._ended += 1
            if self._ended >= _ENOUGH:
                self._trouble = self._mismatch()
        elif value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
            self._trouble = self._mismatch()

    def _refused(self) -> BusError:
        assert self._me is not None  # only keys are asked about
        return BusError(
            "refused",
            f"the service at {self._endpoint} refused this key ({self._me.name}): was it removed? "
            "`wattbus keys` lists those it takes",
        )

    def _mismatch(self) -> BusError:
        if self._me is None:
            return BusError(
                "refused",
                f"the service at {self._endpoint} wants a key: give a key file with --key-file or "
                "$WATTBUS_KEY; `wattbus keys add` makes one",
            )
        return BusError(
            "unknown_service",
            f"what listens at {self._endpoint} has another key than the one this key file is for, "
            "or takes none (then leave it out)",
        )
