// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a host can do of a guest's work on frames, and the other way round: which features that makes, and what the tap
//! is told of those that the driver has accepted.

use super::spec;
use crate::sys::tap;

/// What any tap with a virtio header can do.
const BASIC: u64 = spec::F_CSUM
    | spec::F_GUEST_CSUM
    | spec::F_HOST_TSO4
    | spec::F_HOST_TSO6
    | spec::F_HOST_ECN
    | spec::F_GUEST_TSO4
    | spec::F_GUEST_TSO6
    | spec::F_GUEST_ECN;
const UFO: u64 = spec::F_HOST_UFO | spec::F_GUEST_UFO;
const USO: u64 = spec::F_HOST_USO | spec::F_GUEST_USO4 | spec::F_GUEST_USO6;

/// All that there can be.
pub(super) const ALL: u64 = BASIC | UFO | USO;

/// What a host can do that takes what `takes` says.
pub(super) fn probe(takes: impl Fn(u32) -> bool) -> u64 {
    let basic = flags(BASIC);
    let when = |features: u64| if takes(flags(BASIC | features)) { features } else { 0 };
    // A kernel takes on sending what it can be told to give.
    if takes(basic) { BASIC | when(UFO) | when(USO) } else { 0 }
}

/// What the tap is told when the driver takes these offloads. The kernel demands what the specification demands of a
/// driver: nothing without the checksum, and ECN only with TCP. It knows USO for both kinds of IP or for none.
pub(super) fn flags(offloads: u64) -> u32 {
    if offloads & spec::F_GUEST_CSUM == 0 {
        return 0;
    }
    let when = |offload: u64, flag: u32| if offloads & offload == offload { flag } else { 0 };
    let tcp = when(spec::F_GUEST_TSO4, tap::TUN_F_TSO4) | when(spec::F_GUEST_TSO6, tap::TUN_F_TSO6);
    let ecn = if tcp == 0 { 0 } else { when(spec::F_GUEST_ECN, tap::TUN_F_TSO_ECN) };
    let uso = when(spec::F_GUEST_USO4 | spec::F_GUEST_USO6, tap::TUN_F_USO4 | tap::TUN_F_USO6);
    tap::TUN_F_CSUM | tcp | ecn | when(spec::F_GUEST_UFO, tap::TUN_F_UFO) | uso
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tap_is_told_only_what_a_kernel_takes() {
        let csum = spec::F_GUEST_CSUM;
        for (offloads, expected) in [
            (0, 0),
            (csum, 0x01),
            (spec::F_GUEST_TSO4, 0),
            (csum | spec::F_GUEST_TSO4, 0x03),
            (csum | spec::F_GUEST_TSO6, 0x05),
            (csum | spec::F_GUEST_ECN, 0x01),
            (csum | spec::F_GUEST_TSO4 | spec::F_GUEST_ECN, 0x0b),
            (csum | spec::F_GUEST_UFO, 0x11),
            (csum | spec::F_GUEST_USO4, 0x01),
            (csum | spec::F_GUEST_USO4 | spec::F_GUEST_USO6, 0x61),
            (ALL, 0x7f),
            (u64::MAX, 0x7f),
        ] {
            assert_eq!(flags(offloads), expected, "{offloads:#x}");
        }
    }

    #[test]
    fn what_a_host_does_not_take_is_not_offered() {
        assert_eq!(probe(|_| true), ALL);
        assert_eq!(probe(|_| false), 0);
        assert_eq!(probe(|flags| flags & (tap::TUN_F_USO4 | tap::TUN_F_USO6) == 0), BASIC | UFO);
        assert_eq!(probe(|flags| flags & tap::TUN_F_UFO == 0), BASIC | USO);
    }
}
