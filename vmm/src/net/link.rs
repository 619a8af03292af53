// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the kernel says of an interface (rtnetlink(7), Linux `include/uapi/linux/if_link.h`).
//!
//! sysfs would say the same, but of the network namespace in which it was mounted, which needn't be ours.

use std::fs::File;
use std::io::{self, Read, Write};

use super::sys;

/// An interface.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// A tap or a tun.
    Tun(Tun),
    /// A macvtap.
    Macvtap,
    /// Anything else.
    Other,
}

/// How a tap or a tun was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tun {
    /// It is a tap.
    pub(super) tap: bool,
    /// There are four bytes about the protocol in front of each frame.
    pub(super) pi: bool,
    pub(super) vnet_header: bool,
    pub(super) multi_queue: bool,
}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// `struct nlmsghdr`: length (4 bytes), type (2), flags (2), sequence number (4), port (4).
const HEADER: usize = 16;
/// `struct ifinfomsg`, which is zero in a request that has a name.
const INFO: usize = 16;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PI: u16 = 4;
const IFLA_TUN_VNET_HDR: u16 = 5;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;

/// Asks for an interface of our network namespace; `None`: there is none of this name.
pub(super) fn find(name: &str) -> io::Result<Option<Link>> {
    let mut socket = File::from(sys::netlink()?);
    socket.write_all(&request(name))?;
    // Everything that there is to say of one interface, its statistics included.
    let mut answer = vec![0; 64 << 10];
    let length = socket.read(&mut answer)?;
    answer.truncate(length);
    parse(&answer)
}

fn request(name: &str) -> Vec<u8> {
    let value = [name.as_bytes(), &[0]].concat();
    let attribute = 4 + value.len();
    let length = HEADER + INFO + attribute.next_multiple_of(4);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes.resize(HEADER + INFO, 0);
    bytes.extend_from_slice(&(attribute as u16).to_ne_bytes());
    bytes.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    bytes.extend_from_slice(&value);
    bytes.resize(length, 0);
    bytes
}

fn parse(answer: &[u8]) -> io::Result<Option<Link>> {
    let odd = || io::Error::other("the kernel says something odd of it");
    let kind = u16_at(answer, 4).ok_or_else(odd)?;
    let content = answer.get(HEADER..).ok_or_else(odd)?;
    match kind {
        NLMSG_ERROR => {
            let error = content.first_chunk().map(|bytes| -i32::from_ne_bytes(*bytes)).ok_or_else(odd)?;
            if error == libc::ENODEV { Ok(None) } else { Err(io::Error::from_raw_os_error(error)) }
        }
        RTM_NEWLINK => {
            let attributes = content.get(INFO..).ok_or_else(odd)?;
            Ok(Some(find_attribute(attributes, IFLA_LINKINFO).map_or(Link::Other, of_kind)))
        }
        _ => Err(odd()),
    }
}

fn of_kind(info: &[u8]) -> Link {
    match find_attribute(info, IFLA_INFO_KIND).map(|kind| kind.strip_suffix(&[0]).unwrap_or(kind)) {
        Some(b"tun") => {
            let data = find_attribute(info, IFLA_INFO_DATA).unwrap_or_default();
            let byte = |kind| find_attribute(data, kind).and_then(|value| value.first()).copied().unwrap_or(0);
            Link::Tun(Tun {
                tap: i32::from(byte(IFLA_TUN_TYPE)) == libc::IFF_TAP,
                pi: byte(IFLA_TUN_PI) != 0,
                vnet_header: byte(IFLA_TUN_VNET_HDR) != 0,
                multi_queue: byte(IFLA_TUN_MULTI_QUEUE) != 0,
            })
        }
        Some(b"macvtap") => Link::Macvtap,
        _ => Link::Other,
    }
}

/// The value of an attribute: each has a length of its own and its header (2 bytes), a type (2), a value, and ends at a multiple
/// of 4.
fn find_attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// That an attribute has attributes in it, and in which order its bytes are.
    const FLAGS: u16 = 0xc000;
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? & !FLAGS == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_and_answers() {
        // Every network namespace has it.
        assert_eq!(find("lo").unwrap(), Some(Link::Other));
        assert_eq!(find("no-such-one").unwrap(), None);
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn answer(info: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + INFO];
        bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        bytes.extend(attribute(IFLA_IFNAME, b"name\0"));
        bytes.extend(attribute(IFLA_LINKINFO | 0x8000, info));
        bytes
    }

    #[test]
    fn how_a_tap_was_made_is_read() {
        let tun = |values: &[(u16, u8)]| {
            let data = values.iter().flat_map(|(kind, value)| attribute(*kind, &[*value])).collect::<Vec<_>>();
            let info = [attribute(IFLA_INFO_KIND, b"tun\0"), attribute(IFLA_INFO_DATA, &data)].concat();
            parse(&answer(&info)).unwrap()
        };
        let all = [(IFLA_TUN_TYPE, 2), (IFLA_TUN_PI, 0), (IFLA_TUN_VNET_HDR, 1), (IFLA_TUN_MULTI_QUEUE, 1)];
        let expected = Tun { tap: true, pi: false, vnet_header: true, multi_queue: true };
        assert_eq!(tun(&all), Some(Link::Tun(expected)));
        let expected = Tun { pi: true, ..Tun::default() };
        assert_eq!(tun(&[(IFLA_TUN_TYPE, 1), (IFLA_TUN_PI, 1)]), Some(Link::Tun(expected)));
        let macvtap = answer(&attribute(IFLA_INFO_KIND, b"macvtap"));
        assert_eq!(parse(&macvtap).unwrap(), Some(Link::Macvtap));
    }

    #[test]
    fn an_answer_that_is_cut_short_is_no_reason_to_panic() {
        let whole = answer(&[attribute(IFLA_INFO_KIND, b"tun\0"), attribute(IFLA_INFO_DATA, &[])].concat());
        for length in 0..whole.len() {
            let _ = parse(&whole[..length]);
        }
        assert!(parse(&whole[..5]).is_err());
        let mut endless = whole;
        endless[HEADER + INFO..HEADER + INFO + 2].copy_from_slice(&0u16.to_ne_bytes());
        assert_eq!(parse(&endless).unwrap(), Some(Link::Other));
    }
}
