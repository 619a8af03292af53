// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of the network device (virtio 1.3 §5.1).

/// The device type.
pub(super) const DEVICE_TYPE: u32 = 1;

/// Feature: the device completes checksums.
pub(super) const F_CSUM: u64 = 1 << 0;
/// Feature: the driver takes frames whose checksum isn't complete.
pub(super) const F_GUEST_CSUM: u64 = 1 << 1;
/// Feature: the driver changes its own offloads.
pub(super) const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// Feature: `mtu` holds the largest packet.
pub(super) const F_MTU: u64 = 1 << 3;
/// Feature: `mac` holds the address.
pub(super) const F_MAC: u64 = 1 << 5;
/// Feature: the driver takes TCP over IPv4 that is to be segmented.
pub(super) const F_GUEST_TSO4: u64 = 1 << 7;
/// Feature: the same over IPv6.
pub(super) const F_GUEST_TSO6: u64 = 1 << 8;
/// Feature: the same with ECN.
pub(super) const F_GUEST_ECN: u64 = 1 << 9;
/// Feature: the driver takes UDP that is to be fragmented.
pub(super) const F_GUEST_UFO: u64 = 1 << 10;
/// Feature: the device takes TCP over IPv4 that is to be segmented.
pub(super) const F_HOST_TSO4: u64 = 1 << 11;
/// Feature: the same over IPv6.
pub(super) const F_HOST_TSO6: u64 = 1 << 12;
/// Feature: the same with ECN.
pub(super) const F_HOST_ECN: u64 = 1 << 13;
/// Feature: the device takes UDP that is to be fragmented.
pub(super) const F_HOST_UFO: u64 = 1 << 14;
/// Feature: a received frame may be spread over several chains.
pub(super) const F_MRG_RXBUF: u64 = 1 << 15;
/// Feature: `status` says whether the link is up.
pub(super) const F_STATUS: u64 = 1 << 16;
/// Feature: there is a control queue.
pub(super) const F_CTRL_VQ: u64 = 1 << 17;
/// Feature: there are commands about which frames are wanted.
pub(super) const F_CTRL_RX: u64 = 1 << 18;
/// Feature: `max_virtqueue_pairs` holds the number of queue pairs.
pub(super) const F_MQ: u64 = 1 << 22;
/// Feature: there is a command that sets the address.
pub(super) const F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// Feature: the driver takes UDP over IPv4 that is to be segmented.
pub(super) const F_GUEST_USO4: u64 = 1 << 54;
/// Feature: the same over IPv6.
pub(super) const F_GUEST_USO6: u64 = 1 << 55;
/// Feature: the device takes UDP that is to be segmented.
pub(super) const F_HOST_USO: u64 = 1 << 56;

/// What the driver may take of unfinished frames; the bits of an offload are those of its feature (§5.1.6.5.6.1).
pub(super) const GUEST_OFFLOADS: u64 = F_GUEST_CSUM | LARGE_OFFLOADS;
/// Those of them by which a received frame can be larger than the MTU.
pub(super) const LARGE_OFFLOADS: u64 =
    F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;

/// Bytes of the header in front of each frame (§5.1.6).
pub(super) const HEADER_SIZE: usize = 12;
/// Header flag: the checksum is to be completed.
pub(super) const HDR_F_NEEDS_CSUM: u8 = 1;
/// Header flag: the checksum was looked at and is right.
pub(super) const HDR_F_DATA_VALID: u8 = 2;
/// Segmentation: none.
pub(super) const GSO_NONE: u8 = 0;
/// Segmentation: TCP over IPv4.
pub(super) const GSO_TCPV4: u8 = 1;
/// Segmentation: UDP into fragments.
pub(super) const GSO_UDP: u8 = 3;
/// Segmentation: TCP over IPv6.
pub(super) const GSO_TCPV6: u8 = 4;
/// Segmentation: UDP into datagrams.
pub(super) const GSO_UDP_L4: u8 = 5;
/// A bit beside those: TCP with ECN.
pub(super) const GSO_ECN: u8 = 0x80;

/// Offset of `mac` in the configuration space (§5.1.4).
pub(super) const CONFIG_MAC: usize = 0;
/// Offset of `status`.
pub(super) const CONFIG_STATUS: usize = 6;
/// Offset of `max_virtqueue_pairs`.
pub(super) const CONFIG_MAX_QUEUE_PAIRS: usize = 8;
/// Offset of `mtu`.
pub(super) const CONFIG_MTU: usize = 10;
/// Bytes of the configuration space, as far as the offered features fill it.
pub(super) const CONFIG_SIZE: usize = 12;
/// Status bit: the link is up.
pub(super) const S_LINK_UP: u16 = 1;

/// Control class: which frames are wanted (§5.1.6.5.1).
pub(super) const CTRL_RX: u8 = 0;
/// Command: all frames.
pub(super) const CTRL_RX_PROMISC: u8 = 0;
/// Command: all frames to groups.
pub(super) const CTRL_RX_ALLMULTI: u8 = 1;
/// Control class: addresses (§5.1.6.5.2).
pub(super) const CTRL_MAC: u8 = 1;
/// Command: the addresses that are wanted.
pub(super) const CTRL_MAC_TABLE_SET: u8 = 0;
/// Command: the card's own address.
pub(super) const CTRL_MAC_ADDR_SET: u8 = 1;
/// Control class: queue pairs (§5.1.6.5.5).
pub(super) const CTRL_MQ: u8 = 4;
/// Command: how many are in use.
pub(super) const CTRL_MQ_VQ_PAIRS_SET: u8 = 0;
/// Control class: the driver's offloads (§5.1.6.5.6).
pub(super) const CTRL_GUEST_OFFLOADS: u8 = 5;
/// Command: these, and no others.
pub(super) const CTRL_GUEST_OFFLOADS_SET: u8 = 0;
/// Answer: done.
pub(super) const CTRL_OK: u8 = 0;
/// Answer: not done.
pub(super) const CTRL_ERR: u8 = 1;

/// Bytes of an Ethernet header without a tag: the shortest frame.
pub(super) const MIN_FRAME: usize = 14;
/// Bytes of the longest frame: an IP packet of 65535 behind an Ethernet header with a tag.
pub(super) const MAX_FRAME: usize = 65_535 + 18;
