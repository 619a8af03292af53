// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of the specification (virtio 1.3 §5.3).

/// The device type (§5).
pub(super) const DEVICE_TYPE: u32 = 3;

/// The configuration space says how large port 0 is (§5.3.3).
pub(super) const F_SIZE: u64 = 1 << 0;
/// There are many ports, and queues for control messages.
pub(super) const F_MULTIPORT: u64 = 1 << 1;

/// The queue for control messages to the driver (§5.3.2).
pub(super) const CONTROL_RECEIVE: u16 = 2;
/// The queue for control messages of the driver's.
pub(super) const CONTROL_TRANSMIT: u16 = 3;

/// Events of control messages (§5.3.6.2).
pub(super) const DEVICE_READY: u16 = 0;
pub(super) const DEVICE_ADD: u16 = 1;
pub(super) const PORT_READY: u16 = 3;
pub(super) const CONSOLE_PORT: u16 = 4;
pub(super) const RESIZE: u16 = 5;
pub(super) const PORT_OPEN: u16 = 6;
pub(super) const PORT_NAME: u16 = 7;

/// A control message: the port, the event and its value (`struct virtio_console_control`), as it lies in memory.
pub(super) type Message = [u8; 8];

/// Puts a control message together.
pub(super) fn message(port: u32, event: u16, value: u16) -> Message {
    let ([a, b, c, d], [e, f], [g, h]) = (port.to_le_bytes(), event.to_le_bytes(), value.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Takes a control message apart.
pub(super) fn parse([a, b, c, d, e, f, g, h]: Message) -> (u32, u16, u16) {
    (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]))
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Input of a port.
    Receive(usize),
    /// Output of a port.
    Transmit(usize),
    /// Control messages to the driver.
    ControlReceive,
    /// Control messages of the driver's.
    ControlTransmit,
}

impl Role {
    /// Port 0 has the first two queues, control messages the next two, and each further port two more (§5.3.2).
    pub(super) fn of(queue: u16) -> Self {
        let pair = usize::from(queue >> 1);
        let (port, is_control) = (pair.saturating_sub(usize::from(pair > 0)), pair == 1);
        match (queue & 1, is_control) {
            (0, false) => Self::Receive(port),
            (0, true) => Self::ControlReceive,
            (_, false) => Self::Transmit(port),
            (_, true) => Self::ControlTransmit,
        }
    }

    /// The first of a port's two queues.
    #[cfg(test)]
    pub(super) fn first_queue(port: usize) -> u16 {
        let pair = port.saturating_add(usize::from(port > 0));
        u16::try_from(pair.saturating_mul(2)).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_numbered_as_the_specification_has_them() {
        let roles: Vec<_> = (0..8).map(Role::of).collect();
        let port = |port| [Role::Receive(port), Role::Transmit(port)];
        let control = [Role::ControlReceive, Role::ControlTransmit];
        assert_eq!(roles, [port(0), control, port(1), port(2)].concat());
        assert_eq!([0, 1, 2].map(Role::first_queue), [0, 4, 6]);
    }

    #[test]
    fn messages_are_little_endian() {
        assert_eq!(message(0x0403_0201, 0x0605, 0x0807), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(parse([1, 2, 3, 4, 5, 6, 7, 8]), (0x0403_0201, 0x0605, 0x0807));
    }
}
