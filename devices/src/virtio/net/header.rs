// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The header in front of a frame of the guest's (virtio 1.3 §5.1.6.2), copied out of guest memory once.
//!
//! The guest controls every bit of it. What comes out says nothing but what was agreed upon and is true of the frame, and
//! nothing at all where the specification tells the device not to look.

use super::spec;

/// A header that may be given to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) bytes: [u8; spec::HEADER_SIZE],
    /// Where in the frame the host writes the two bytes of a checksum, if it does.
    pub(super) checksum_at: Option<usize>,
}

/// No offloads.
pub(super) const PLAIN: Header = Header { bytes: [0; spec::HEADER_SIZE], checksum_at: None };

impl Header {
    /// Checks what the guest says of a frame of so many bytes. `features` are those that were accepted. `None`: it can't be.
    pub(super) fn check(bytes: [u8; spec::HEADER_SIZE], features: u64, frame: usize) -> Option<Self> {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, ..] = bytes;
        let word = |low, high| u16::from_le_bytes([low, high]);
        let (hdr_len, gso_size) = (word(h0, h1), word(g0, g1));
        let (csum_start, csum_offset) = (usize::from(word(s0, s1)), usize::from(word(o0, o1)));
        // A device ignores flags that it doesn't know, and the others of these are of received frames.
        let needs_checksum = flags & spec::HDR_F_NEEDS_CSUM != 0;
        let mut header = PLAIN;
        let [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, ..] = &mut header.bytes;
        if needs_checksum {
            let at = csum_start.checked_add(csum_offset)?;
            // The Ethernet header has no checksum, and the host writes none there.
            let fits = csum_start >= spec::MIN_FRAME && at.checked_add(2)? <= frame;
            if features & spec::F_CSUM == 0 || !fits {
                return None;
            }
            *flags = spec::HDR_F_NEEDS_CSUM;
            ([*s0, *s1], [*o0, *o1]) = ([bytes[6], bytes[7]], [bytes[8], bytes[9]]);
            header.checksum_at = Some(at);
        }
        let ecn = gso_type & spec::GSO_ECN != 0;
        let feature = match gso_type & !spec::GSO_ECN {
            spec::GSO_NONE if gso_type == spec::GSO_NONE => return Some(header),
            spec::GSO_TCPV4 => spec::F_HOST_TSO4,
            spec::GSO_TCPV6 => spec::F_HOST_TSO6,
            spec::GSO_UDP if !ecn => spec::F_HOST_UFO,
            spec::GSO_UDP_L4 if !ecn => spec::F_HOST_USO,
            _ => return None,
        };
        let agreed = features & feature != 0 && (!ecn || features & spec::F_HOST_ECN != 0);
        // Segments need checksums of their own (§5.1.6.2.1), and a size. The length of the headers is a hint.
        if !agreed || !needs_checksum || gso_size == 0 || usize::from(hdr_len) > frame {
            return None;
        }
        *gso = gso_type;
        ([*h0, *h1], [*g0, *g1]) = (hdr_len.to_le_bytes(), gso_size.to_le_bytes());
        Some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::net::offloads;

    fn bytes(flags: u8, gso: u8, words: [u16; 4]) -> [u8; 12] {
        let mut bytes = [0xff; 12];
        (bytes[0], bytes[1]) = (flags, gso);
        for (at, word) in (2..).step_by(2).zip(words) {
            bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header of a TCP segment: Ethernet, IPv4 and TCP of 20 bytes each.
    const TCP: [u16; 4] = [54, 1448, 34, 16];

    #[test]
    fn what_is_agreed_upon_and_true_passes_as_it_is() {
        for (gso, words) in
            [(1, TCP), (4, TCP), (0x81, TCP), (0x84, TCP), (3, [42, 1480, 34, 6]), (5, [42, 100, 34, 6])]
        {
            let header = Header::check(bytes(1, gso, words), offloads::ALL, 9000).unwrap();
            let mut expected = bytes(1, gso, words);
            expected[10..].fill(0);
            assert_eq!((header.bytes, header.checksum_at), (expected, Some(usize::from(words[2] + words[3]))));
        }
    }

    #[test]
    fn what_the_device_must_not_look_at_is_not_passed_on() {
        for flags in [0, 2, 4, 0xfe] {
            assert_eq!(Header::check(bytes(flags, 0, [0xffff; 4]), offloads::ALL, 14), Some(PLAIN), "{flags:#x}");
        }
        let header = Header::check(bytes(0xff, 0, [0xffff, 0xffff, 34, 16]), offloads::ALL, 60).unwrap();
        assert_eq!(header.bytes, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
    }

    #[test]
    fn what_is_not_agreed_upon_or_not_true_is_refused() {
        let all = offloads::ALL;
        let cases = [
            ("a checksum without the feature", 1, 0, TCP, all & !spec::F_CSUM, 9000),
            ("a checksum just beyond the frame", 1, 0, TCP, all, 51),
            ("a checksum far beyond", 1, 0, [0, 0, 0xffff, 0xffff], all, 65_553),
            ("a checksum in the Ethernet header", 1, 0, [0, 0, 0, 6], all, 9000),
            ("a checksum that starts in the Ethernet header", 1, 0, [0, 0, 13, 16], all, 9000),
            ("TSO4 without the feature", 1, 1, TCP, all & !spec::F_HOST_TSO4, 9000),
            ("TSO6 without the feature", 1, 4, TCP, all & !spec::F_HOST_TSO6, 9000),
            ("ECN without the feature", 1, 0x81, TCP, all & !spec::F_HOST_ECN, 9000),
            ("UFO without the feature", 1, 3, TCP, all & !spec::F_HOST_UFO, 9000),
            ("USO without the feature", 1, 5, TCP, all & !spec::F_HOST_USO, 9000),
            ("segments without a checksum", 0, 1, TCP, all, 9000),
            ("segments without a size", 1, 1, [54, 0, 34, 16], all, 9000),
            ("headers beyond the frame", 1, 1, [9001, 1448, 34, 16], all, 9000),
            ("a kind that nobody knows", 1, 2, TCP, all, 9000),
            ("another one", 1, 6, TCP, all, 9000),
            ("all bits", 1, 0xff, TCP, all, 9000),
            ("ECN of nothing", 1, 0x80, TCP, all, 9000),
            ("ECN of UFO", 1, 0x83, TCP, all, 9000),
            ("ECN of USO", 1, 0x85, TCP, all, 9000),
        ];
        for (name, flags, gso, words, features, frame) in cases {
            assert_eq!(Header::check(bytes(flags, gso, words), features, frame), None, "{name}");
        }
    }
}
