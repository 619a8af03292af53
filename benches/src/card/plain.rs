// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One thread that reads each frame from one tap and writes it to the other, with the header that says what is still to be done
//! to it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result};

use super::{End, OFFLOADS, Taken};
use crate::sys::{self, CpuClock};

/// A frame that is to be segmented, its header, and the header in front.
const ROOM: usize = 68 << 10;
/// Frames in one direction, while the other one waits.
const BATCH: usize = 64;

pub(super) fn pass(taps: [File; 2], end: &End) -> Taken {
    for tap in &taps {
        sys::set_offload(tap, OFFLOADS).context("the tap can't be told of offloads")?;
    }
    let cpu = sys::cpu_time(CpuClock::Thread);
    let mut buffer = vec![0; ROOM];
    let [near, far] = &taps;
    while !end.is_wanted() {
        let there = pass_on(near, far, &mut buffer)?;
        let back = pass_on(far, near, &mut buffer)?;
        if !there && !back {
            sys::wait_for_any([near.as_fd(), far.as_fd(), sys::fd_of(&end.wake)]).context("can't wait for frames")?;
        }
    }
    Ok(sys::cpu_time(CpuClock::Thread) - cpu)
}

/// Whether there was any frame.
fn pass_on(mut from: &File, mut to: &File, buffer: &mut [u8]) -> Result<bool> {
    for passed in 0..BATCH {
        let length = match from.read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(passed > 0),
            Err(error) => return Err(error).context("can't read from a tap"),
        };
        match to.write(&buffer[..length]) {
            // A frame that the host has no room for is lost, as anywhere.
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error).context("can't write to a tap"),
            _ => (),
        }
    }
    Ok(true)
}
