// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A card on taps of the kernel's, in a network namespace of the test's own. Skipped where that can't be made.

#![expect(unsafe_code, reason = "a tap is made by an ioctl, and a namespace by a call")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use devices::virtio::VirtioDevice;
use devices::virtio::net::{Backend, MacAddress, Net, NetError, NetOptions};

#[path = "skip/mod.rs"]
#[expect(dead_code, reason = "other tests want the places for files too")]
mod skip;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// The offloads that any kernel can do: CSUM, GUEST_CSUM, TSO and ECN both ways.
const BASIC: u64 = 0x3b83;

/// Puts this thread into a namespace of its own; what is made in there goes with it.
fn enter() -> bool {
    // SAFETY: it takes flags, and changes this thread only.
    let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    if !entered {
        skip::skip(&format!("no network namespace: {}", std::io::Error::last_os_error()));
    }
    entered
}

fn open(name: &str, flags: libc::c_int) -> Option<File> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let file = opened.inspect_err(|error| skip::skip(&format!("/dev/net/tun can't be opened: {error}"))).ok()?;
    // SAFETY: every field of the structure is a number or a union of numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | flags) as libc::c_short;
    // SAFETY: the request reads and fills a structure of this kind, which lives on this stack.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } == 0;
    if !made {
        skip::skip(&format!("no tap can be made: {}", std::io::Error::last_os_error()));
    }
    made.then_some(file)
}

fn net(files: Vec<File>, vnet_header: bool) -> Result<Net, NetError> {
    let backends = files.into_iter().map(|file| Backend::Tap { file, vnet_header }).collect();
    Net::new("eth0", backends, NetOptions::new(MacAddress::new(MAC).unwrap()))
}

#[test]
fn a_tap_with_a_header_offers_what_the_kernel_can_do_and_one_without_nothing() {
    if !enter() {
        return;
    }
    let Some(file) = open("tap0", libc::IFF_NO_PI | libc::IFF_VNET_HDR) else { return };
    assert_eq!(net(vec![file], true).unwrap().features() & BASIC, BASIC);
    let Some(file) = open("tap1", libc::IFF_NO_PI) else { return };
    assert_eq!(net(vec![file], false).unwrap().features() & BASIC, 0);
}

#[test]
fn a_tap_that_was_opened_otherwise_is_named_with_the_flag() {
    if !enter() {
        return;
    }
    let cases = [
        (libc::IFF_NO_PI, true, 1, "the tap tap0 was opened without IFF_VNET_HDR, which is needed"),
        (
            libc::IFF_NO_PI | libc::IFF_VNET_HDR,
            false,
            1,
            "the tap tap1 was opened with IFF_VNET_HDR, which it must not be",
        ),
        (libc::IFF_NO_PI, false, 2, "the tap tap2 was opened without IFF_MULTI_QUEUE, which is needed"),
    ];
    for (index, (flags, header, count, message)) in cases.into_iter().enumerate() {
        let Some(file) = open(&format!("tap{index}"), flags) else { return };
        let files = (0..count).map(|_| file.try_clone().unwrap()).collect();
        assert_eq!(net(files, header).expect_err(message).to_string(), message);
    }
    let multi = libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
    let (Some(a), Some(b)) = (open("tap8", multi), open("tap9", multi)) else { return };
    assert_eq!(net(vec![a, b], false).unwrap_err().to_string(), "the queue pairs are of two interfaces, tap8 and tap9");
}

#[test]
fn all_queues_but_the_first_of_a_tap_wait_for_a_driver() {
    if !enter() {
        return;
    }
    let flags = libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let (Some(first), Some(second)) = (open("tap0", flags), open("tap0", flags)) else { return };
    let look = second.try_clone().unwrap();
    let card = net(vec![first, second], true).unwrap();
    assert_eq!(card.queue_sizes().len(), 5);
    // SAFETY: every field of the structure is a number or a union of numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = libc::IFF_ATTACH_QUEUE as libc::c_short;
    // SAFETY: the request reads a structure of this kind, which lives on this stack.
    let attached = unsafe { libc::ioctl(look.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) };
    assert_eq!(attached, 0, "only one that is detached can be attached");
}
