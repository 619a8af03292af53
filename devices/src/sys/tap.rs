// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a tap is told and asked but frames (`linux/if_tun.h`).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Whole Ethernet frames.
pub(crate) const IFF_TAP: u32 = libc::IFF_TAP as u32;
/// No protocol number in front of them.
pub(crate) const IFF_NO_PI: u32 = libc::IFF_NO_PI as u32;
/// A virtio header in front of them.
pub(crate) const IFF_VNET_HDR: u32 = libc::IFF_VNET_HDR as u32;
/// Several descriptors share the interface.
pub(crate) const IFF_MULTI_QUEUE: u32 = libc::IFF_MULTI_QUEUE as u32;

/// The reader takes frames whose checksum isn't complete.
pub(crate) const TUN_F_CSUM: u32 = 0x01;
/// The reader takes TCP over IPv4 that is to be segmented.
pub(crate) const TUN_F_TSO4: u32 = 0x02;
/// The same over IPv6.
pub(crate) const TUN_F_TSO6: u32 = 0x04;
/// The same with ECN.
pub(crate) const TUN_F_TSO_ECN: u32 = 0x08;
/// The reader takes UDP that is to be fragmented.
pub(crate) const TUN_F_UFO: u32 = 0x10;
/// The reader takes UDP over IPv4 that is to be segmented.
pub(crate) const TUN_F_USO4: u32 = 0x20;
/// The same over IPv6.
pub(crate) const TUN_F_USO6: u32 = 0x40;

/// The interface behind a descriptor.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) flags: u32,
}

fn request() -> libc::ifreq {
    // SAFETY: every field of the structure is a number or a union of numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The interface of a tap; an error if it is none, or has none any more.
pub(crate) fn interface(file: &File) -> io::Result<Interface> {
    let mut request = request();
    // SAFETY: the request fills a structure of this kind, which lives on this stack.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    let name: Vec<u8> = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned();
    // SAFETY: this is the field of the union that the request fills, and any bits are a value of it.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(Interface { name, flags: u32::from(flags.cast_unsigned()) })
}

/// Says how many bytes the virtio header has.
pub(crate) fn set_header_size(file: &File, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the request reads an integer of this size, which lives on this stack.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) })
}

/// Says what the reader takes of unfinished frames (`TUN_F_…`): all of it for the whole interface.
pub(crate) fn set_offload(file: &File, flags: u32) -> io::Result<()> {
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
}

/// Makes this descriptor one of the interface's queues, or none for the time being.
pub(crate) fn set_attached(file: &File, attached: bool) -> io::Result<()> {
    let mut request = request();
    let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flag).map_err(io::Error::other)?;
    // SAFETY: the request reads a structure of this kind, which lives on this stack.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) })
}

/// Lets no read or write wait.
pub(crate) fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: numbers, and a descriptor that is borrowed from an open file.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    check(flags)?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })
}
