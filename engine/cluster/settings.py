"""Limits and times of the channels between the endpoints of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from scalops.algebra.errors import ConfigError


@dataclass(frozen=True)
class ChannelSettings:
    """Limits (bytes, counts) and times (seconds); the two ends of a channel have the same.

    `frame_bytes`: of one frame with all its parts. `window_bytes`: a sender stops when so much
    is not acknowledged, and so a receiver never holds more of frames that came too early;
    `window_frames` likewise. `message_bytes`, `message_buffers`: of one message.

    `ack_seconds`: how long an acknowledgement waits for a frame to travel with.
    `retransmission_seconds`: how long after silence a frame is sent again at first; the time
    doubles up to `most_retransmission_seconds`.
    """

    frame_bytes: int = 1 << 20
    window_bytes: int = 8 << 20
    window_frames: int = 1024
    message_bytes: int = 4 << 30
    message_buffers: int = 1 << 16
    ack_seconds: float = 0.02
    retransmission_seconds: float = 0.25
    most_retransmission_seconds: float = 4.0
    peers: int = 4096

    def __post_init__(self) -> None:
        wrong = [name for name, value in vars(self).items() if not value > 0]
        if wrong:
            raise ConfigError(f"{', '.join(wrong)} of a channel must be greater than 0")
        if not 1024 <= self.frame_bytes <= 1 << 20:
            raise ConfigError(
                f"frame_bytes is {self.frame_bytes}; from 1,024 to 1,048,576 are allowed"
            )
        if self.ack_seconds >= self.retransmission_seconds:
            raise ConfigError(
                f"ack_seconds ({self.ack_seconds}) must be less than retransmission_seconds"
                f" ({self.retransmission_seconds})"
            )
