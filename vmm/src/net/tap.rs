// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Taps by name: opened as they were made, so that whoever owns one needs no privilege; made on the spot where there is none.

use std::fs::{File, OpenOptions};
use std::io;

use devices::virtio::net::Backend;

use super::link::{self, Link};
use super::sys;

const TUN: &str = "/dev/net/tun";
/// Linux `include/uapi/linux/if_tun.h`.
pub(super) const IFF_TAP: u16 = libc::IFF_TAP as u16;
const IFF_NO_PI: u16 = libc::IFF_NO_PI as u16;
pub(super) const IFF_VNET_HDR: u16 = libc::IFF_VNET_HDR as u16;
pub(super) const IFF_MULTI_QUEUE: u16 = libc::IFF_MULTI_QUEUE as u16;

/// Opens a tap, or makes it, with so many queues. One that is made gets this MTU.
pub(super) fn open(name: &str, queues: u16, mtu: Option<u16>) -> Result<Vec<Backend>, String> {
    let link = link::find(name).map_err(|error| format!("the kernel can't be asked for it: {error}"))?;
    let is_there = link.is_some();
    let flags = link.map_or(Ok(flags_for(queues)), |link| flags_of(&link, queues))?;
    let files = (0..queues).map(|_| {
        let tun = open_tun()?;
        sys::attach(&tun, name, flags).map_err(|error| cant_attach(&error, name, is_there, queues))?;
        Ok(tun)
    });
    let files = files.collect::<Result<Vec<_>, String>>()?;
    if !is_there {
        believe_no_router(name);
        if let Some(mtu) = mtu {
            sys::set_mtu(name, mtu).map_err(|error| format!("was made, and takes no MTU of {mtu} bytes: {error}"))?;
        }
        sys::set_up(name).map_err(|error| format!("was made, and can't be set up: {error}"))?;
    }
    let vnet_header = flags & IFF_VNET_HDR != 0;
    Ok(files.into_iter().map(|file| Backend::Tap { file, vnet_header }).collect())
}

/// Has the host take no addresses and routes from whoever is behind the tap: it is a guest. Otherwise it does so where it
/// forwards nothing itself (Linux Documentation/networking/ip-sysctl.rst).
fn believe_no_router(name: &str) {
    for key in ["accept_ra", "autoconf", "accept_redirects"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{key}");
        match std::fs::write(&path, "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{path} can't be set to 0, so the host may take routes from the guest: {error}");
            }
            // Without IPv6 there is no such file.
            _ => (),
        }
    }
}

/// Those that we make a tap with.
fn flags_for(queues: u16) -> u16 {
    IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | if queues > 1 { IFF_MULTI_QUEUE } else { 0 }
}

/// Those that an interface was made with, if so many queues of it can be opened.
fn flags_of(link: &Link, queues: u16) -> Result<u16, String> {
    let tun = match link {
        Link::Tun(tun) => tun,
        Link::Macvtap => return Err("is a macvtap: open its /dev/tapN, and give that with fd=".to_owned()),
        Link::Other => return Err("is no tap, but another kind of interface".to_owned()),
    };
    let make = "make it with 'ip tuntap add NAME mode tap";
    if !tun.tap {
        return Err(format!("was made without IFF_TAP, so it is a tun: {make}'"));
    }
    if tun.pi {
        return Err(format!("was made without IFF_NO_PI: {make}', without 'pi'"));
    }
    if queues > 1 && !tun.multi_queue {
        return Err(format!(
            "was made without IFF_MULTI_QUEUE, so it has one queue: give queues=1, or {make} multi_queue'"
        ));
    }
    let when = |condition: bool, flag: u16| if condition { flag } else { 0 };
    Ok(IFF_TAP | IFF_NO_PI | when(tun.vnet_header, IFF_VNET_HDR) | when(tun.multi_queue, IFF_MULTI_QUEUE))
}

fn open_tun() -> Result<File, String> {
    OpenOptions::new().read(true).write(true).open(TUN).and_then(|file| sys::never_wait(&file).map(|()| file)).map_err(
        |error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                format!("{TUN} is not there: load the module: 'modprobe tun'")
            }
            Some(libc::EACCES | libc::EPERM) => {
                format!("{TUN} may not be opened by this user: give it access, for example by a group")
            }
            _ => format!("{TUN} can't be opened: {error}"),
        },
    )
}

fn cant_attach(error: &io::Error, name: &str, is_there: bool, queues: u16) -> String {
    let multi_queue = if queues > 1 { " multi_queue" } else { "" };
    match error.raw_os_error() {
        Some(libc::EBUSY) => "is in use: another program has it open".to_owned(),
        Some(libc::EPERM | libc::EACCES) if is_there => {
            "belongs to another user: make it with 'ip tuntap add NAME mode tap user USER'".to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => format!(
            "there is no such interface, and this user may not make it: as root, \
             'ip tuntap add {name} mode tap user USER vnet_hdr{multi_queue}'"
        ),
        Some(libc::E2BIG) => "has no more queues left: other programs have them".to_owned(),
        Some(libc::EINVAL) if is_there => "can't be opened with the flags that it shows".to_owned(),
        _ => format!("can't be opened: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::Tun;

    const PLAIN: Tun = Tun { tap: true, pi: false, vnet_header: false, multi_queue: false };

    #[test]
    fn a_tap_is_opened_with_the_flags_that_it_was_made_with() {
        let flags = |tun, queues| flags_of(&Link::Tun(tun), queues);
        assert_eq!(flags(PLAIN, 1), Ok(IFF_TAP | IFF_NO_PI));
        assert_eq!(flags(Tun { vnet_header: true, ..PLAIN }, 1), Ok(flags_for(1)));
        let all = || Tun { vnet_header: true, multi_queue: true, ..PLAIN };
        assert_eq!(flags(all(), 2), Ok(flags_for(2)));
        assert_eq!(flags(all(), 1), Ok(flags_for(2)), "one queue of many");
        assert_eq!((flags_for(1), flags_for(2)), (0x5002, 0x5102));
    }

    #[test]
    fn flags_that_do_not_fit_are_named() {
        for (tun, queues, flag) in [
            (Tun { tap: false, ..PLAIN }, 1, "IFF_TAP"),
            (Tun { pi: true, ..PLAIN }, 1, "IFF_NO_PI"),
            (PLAIN, 2, "IFF_MULTI_QUEUE"),
        ] {
            let error = flags_of(&Link::Tun(tun), queues).unwrap_err();
            assert!(error.starts_with(&format!("was made without {flag}")), "{error}");
        }
        assert_eq!(flags_of(&Link::Other, 1).unwrap_err(), "is no tap, but another kind of interface");
        assert!(flags_of(&Link::Macvtap, 1).unwrap_err().contains("/dev/tapN"));
    }
}
