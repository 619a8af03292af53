// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a vhost device of the kernel's is told and asked (Linux `include/uapi/linux/vhost.h`).
//!
//! The kernel works off rings, and moves what is in their buffers, by addresses in this process. Those of rings come from a
//! [`Queue`], which has checked them, and those of buffers it makes of the memory table. Whoever sets a ring up keeps its
//! queue, and so the memory, until the ring is stopped.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::GuestRam;
use crate::virtio::queue::Queue;

const VHOST: u32 = 0xaf;

const GET_FEATURES: libc::Ioctl = libc::_IOR::<u64>(VHOST, 0x00);
const SET_FEATURES: libc::Ioctl = libc::_IOW::<u64>(VHOST, 0x00);
const SET_OWNER: libc::Ioctl = libc::_IO(VHOST, 0x01);
const SET_MEM_TABLE: libc::Ioctl = libc::_IOW::<[u32; 2]>(VHOST, 0x03);
const SET_VRING_NUM: libc::Ioctl = libc::_IOW::<State>(VHOST, 0x10);
const SET_VRING_ADDR: libc::Ioctl = libc::_IOW::<Addresses>(VHOST, 0x11);
const SET_VRING_BASE: libc::Ioctl = libc::_IOW::<State>(VHOST, 0x12);
const GET_VRING_BASE: libc::Ioctl = libc::_IOWR::<State>(VHOST, 0x12);
const SET_VRING_KICK: libc::Ioctl = libc::_IOW::<Descriptor>(VHOST, 0x20);
const SET_VRING_CALL: libc::Ioctl = libc::_IOW::<Descriptor>(VHOST, 0x21);
const SET_VRING_ERR: libc::Ioctl = libc::_IOW::<Descriptor>(VHOST, 0x22);
const VSOCK_SET_GUEST_CID: libc::Ioctl = libc::_IOW::<u64>(VHOST, 0x60);
const VSOCK_SET_RUNNING: libc::Ioctl = libc::_IOW::<libc::c_int>(VHOST, 0x61);
const NET_SET_BACKEND: libc::Ioctl = libc::_IOW::<Descriptor>(VHOST, 0x30);

/// The most regions that there is room for here; a VM has a few.
const MAX_REGIONS: usize = 16;

/// `struct vhost_vring_state`.
#[repr(C)]
struct State {
    index: u32,
    number: u32,
}

/// `struct vhost_vring_addr`.
#[repr(C)]
struct Addresses {
    index: u32,
    flags: u32,
    table: u64,
    used: u64,
    avail: u64,
    log: u64,
}

/// `struct vhost_vring_file`.
#[repr(C)]
struct Descriptor {
    index: u32,
    fd: RawFd,
}

/// `struct vhost_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest_address: u64,
    bytes: u64,
    host_address: u64,
    flags: u64,
}

/// `struct vhost_memory`, with room for its regions.
#[repr(C)]
struct Memory {
    count: u32,
    padding: u32,
    regions: [Region; MAX_REGIONS],
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes this process the one whose memory the device works in. Comes before everything else.
pub(crate) fn set_owner(vhost: &File) -> io::Result<()> {
    // SAFETY: the request takes nothing.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), SET_OWNER) })
}

/// The features that the device can do.
pub(crate) fn features(vhost: &File) -> io::Result<u64> {
    let mut features = 0u64;
    // SAFETY: the request fills a number of this size, which lives on this stack.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), GET_FEATURES, &raw mut features) })?;
    Ok(features)
}

/// Says which of them are in use.
pub(crate) fn set_features(vhost: &File, features: u64) -> io::Result<()> {
    // SAFETY: the request reads a number of this size, which lives on this stack.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), SET_FEATURES, &raw const features) })
}

/// Says where guest memory is.
pub(crate) fn set_memory(vhost: &File, ram: &GuestRam) -> io::Result<()> {
    let mut memory = Memory { count: 0, padding: 0, regions: [Region::default(); MAX_REGIONS] };
    let mut places = memory.regions.iter_mut();
    for region in ram.iter() {
        let place = places.next().ok_or_else(|| io::Error::other("guest memory has too many parts"))?;
        *place = Region {
            guest_address: region.start_addr().0,
            bytes: region.len(),
            host_address: region.as_ptr().expose_provenance() as u64,
            flags: 0,
        };
        memory.count = memory.count.saturating_add(1);
    }
    // SAFETY: the request reads a structure of this kind with as many regions as it says, which lives on this stack. The
    // memory that it names is mapped as long as a queue in it runs: see the top of this file.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), SET_MEM_TABLE, &raw const memory) })
}

/// Says what a ring is, and where it goes on.
pub(crate) fn set_ring(vhost: &File, index: u32, queue: &Queue, base: u16) -> io::Result<()> {
    let fd = vhost.as_raw_fd();
    let number = State { index, number: queue.size().into() };
    // SAFETY: the request reads a structure of this kind, which lives on this stack.
    check(unsafe { libc::ioctl(fd, SET_VRING_NUM, &raw const number) })?;
    let base = State { index, number: base.into() };
    // SAFETY: as above.
    check(unsafe { libc::ioctl(fd, SET_VRING_BASE, &raw const base) })?;
    let at = queue.host_addresses();
    let addresses = Addresses { index, flags: 0, table: at.table, used: at.used, avail: at.avail, log: 0 };
    // SAFETY: as above. The addresses are those of a queue's parts, which it has checked and keeps mapped: see the top of
    // this file.
    check(unsafe { libc::ioctl(fd, SET_VRING_ADDR, &raw const addresses) })
}

/// What a ring has an eventfd for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// The driver has made something available.
    Kick,
    /// Something was used.
    Call,
    /// The ring can't be trusted.
    Error,
}

/// Gives a ring its eventfd for something.
pub(crate) fn set_event(vhost: &File, index: u32, event: Event, fd: &EventFd) -> io::Result<()> {
    let request = match event {
        Event::Kick => SET_VRING_KICK,
        Event::Call => SET_VRING_CALL,
        Event::Error => SET_VRING_ERR,
    };
    let descriptor = Descriptor { index, fd: fd.as_raw_fd() };
    // SAFETY: each of the requests reads a structure of this kind, which lives on this stack.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), request, &raw const descriptor) })
}

/// The available index at which a ring that is stopped goes on.
pub(crate) fn base(vhost: &File, index: u32) -> io::Result<u16> {
    let mut state = State { index, number: 0 };
    // SAFETY: the request reads and fills a structure of this kind, which lives on this stack.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), GET_VRING_BASE, &raw mut state) })?;
    let [low, high, ..] = state.number.to_le_bytes();
    Ok(u16::from_le_bytes([low, high]))
}

/// Has a ring of a network device move the frames of a tap, or of none, which stops it.
pub(crate) fn net_set_backend(vhost: &File, index: u32, tap: Option<&File>) -> io::Result<()> {
    let descriptor = Descriptor { index, fd: tap.map_or(-1, AsRawFd::as_raw_fd) };
    // SAFETY: the request reads a structure of this kind, which lives on this stack.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), NET_SET_BACKEND, &raw const descriptor) })
}

/// Says which context ID the guest of a socket device has. There is no other guest with the same on this host.
pub(crate) fn vsock_set_guest_cid(vhost: &File, cid: u64) -> io::Result<()> {
    // SAFETY: the request reads a number of this size, which lives on this stack.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), VSOCK_SET_GUEST_CID, &raw const cid) })
}

/// Has a socket device work off both of its rings, or none.
pub(crate) fn vsock_set_running(vhost: &File, runs: bool) -> io::Result<()> {
    let runs = libc::c_int::from(runs);
    // SAFETY: the request reads a number of this size, which lives on this stack.
    check(unsafe { libc::ioctl(vhost.as_raw_fd(), VSOCK_SET_RUNNING, &raw const runs) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_that_the_kernel_knows() {
        for (request, number) in [
            (GET_FEATURES, 0x8008_af00),
            (SET_FEATURES, 0x4008_af00),
            (SET_OWNER, 0xaf01),
            (SET_MEM_TABLE, 0x4008_af03),
            (SET_VRING_NUM, 0x4008_af10),
            (SET_VRING_ADDR, 0x4028_af11),
            (SET_VRING_BASE, 0x4008_af12),
            (GET_VRING_BASE, 0xc008_af12),
            (SET_VRING_KICK, 0x4008_af20),
            (SET_VRING_CALL, 0x4008_af21),
            (SET_VRING_ERR, 0x4008_af22),
            (NET_SET_BACKEND, 0x4008_af30),
            (VSOCK_SET_GUEST_CID, 0x4008_af60),
            (VSOCK_SET_RUNNING, 0x4004_af61),
        ] {
            assert_eq!(request, number);
        }
    }

    #[test]
    fn what_is_no_vhost_device_is_an_error() {
        let null = File::open("/dev/null").unwrap();
        assert!(set_owner(&null).is_err() && features(&null).is_err() && base(&null, 0).is_err());
    }
}
