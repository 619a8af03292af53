// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of the socket device, and the header of its packets (virtio 1.3 §5.10).

/// The device type.
pub(super) const DEVICE_TYPE: u32 = 19;

/// Feature: there are stream sockets.
pub(super) const F_STREAM: u64 = 1 << 0;

/// The queue of packets to the guest.
pub(super) const RECEIVE: u16 = 0;
/// The queue of packets from the guest.
pub(super) const TRANSMIT: u16 = 1;

/// The host's context ID.
pub(super) const HOST_CID: u64 = 2;

/// Bytes of a packet's header.
pub(super) const HEADER_SIZE: u32 = 44;

/// A packet of a stream socket.
pub(super) const TYPE_STREAM: u16 = 1;

/// Asks for a connection.
pub(super) const OP_REQUEST: u16 = 1;
/// Agrees to one.
pub(super) const OP_RESPONSE: u16 = 2;
/// There is no such connection, or not any more.
pub(super) const OP_RST: u16 = 3;
/// One side won't send or receive any more.
pub(super) const OP_SHUTDOWN: u16 = 4;
/// Data.
pub(super) const OP_RW: u16 = 5;
/// How much room there is.
pub(super) const OP_CREDIT_UPDATE: u16 = 6;
/// Asks how much room there is.
pub(super) const OP_CREDIT_REQUEST: u16 = 7;

/// Flag of a SHUTDOWN: who sends it receives no more.
pub(super) const SHUTDOWN_RCV: u32 = 1 << 0;
/// Flag of a SHUTDOWN: who sends it sends no more.
pub(super) const SHUTDOWN_SEND: u32 = 1 << 1;
/// Both.
pub(super) const SHUTDOWN_ALL: u32 = SHUTDOWN_RCV | SHUTDOWN_SEND;

/// A header's 32-bit words, as they are in memory.
pub(super) type Words = [u32; 11];

/// A packet's header (§5.10.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of data behind it.
    pub(super) len: u32,
    /// Which sort of socket.
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// How much room whoever sends it has for data in all.
    pub(super) buf_alloc: u32,
    /// How much whoever sends it has taken out of there so far, modulo 2^32.
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn from_words(words: Words) -> Self {
        let [src_low, src_high, dst_low, dst_high, src_port, dst_port, len, kind_and_op, flags, buf_alloc, fwd_cnt] =
            words.map(u32::from_le);
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [kind_low, kind_high, op_low, op_high] = kind_and_op.to_le_bytes();
        Self {
            src_cid: wide(src_low, src_high),
            dst_cid: wide(dst_low, dst_high),
            src_port,
            dst_port,
            len,
            kind: u16::from_le_bytes([kind_low, kind_high]),
            op: u16::from_le_bytes([op_low, op_high]),
            flags,
            buf_alloc,
            fwd_cnt,
        }
    }

    /// Its bytes.
    pub(super) fn to_bytes(self) -> [u8; HEADER_SIZE as usize] {
        let Self { src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt } = self;
        let mut bytes = [0; HEADER_SIZE as usize];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            if let Some((now, later)) = std::mem::take(&mut rest).split_at_mut_checked(field.len()) {
                now.copy_from_slice(field);
                rest = later;
            }
        };
        put(&src_cid.to_le_bytes());
        put(&dst_cid.to_le_bytes());
        put(&src_port.to_le_bytes());
        put(&dst_port.to_le_bytes());
        put(&len.to_le_bytes());
        put(&kind.to_le_bytes());
        put(&op.to_le_bytes());
        put(&flags.to_le_bytes());
        put(&buf_alloc.to_le_bytes());
        put(&fwd_cnt.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_laid_out_as_the_specification_says() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 2,
            src_port: 0x1112_1314,
            dst_port: 0x2122_2324,
            len: 0x3132_3334,
            kind: 0x4142,
            op: 0x5152,
            flags: 0x6162_6364,
            buf_alloc: 0x7172_7374,
            fwd_cnt: 0x8182_8384,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[28..32], [0x42, 0x41, 0x52, 0x51]);
        assert_eq!(bytes[40..], [0x84, 0x83, 0x82, 0x81]);
        let word = |at: usize| u32::from_ne_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap());
        assert_eq!(Header::from_words(std::array::from_fn(word)), header);
    }
}
