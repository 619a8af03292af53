// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The power button: does what acpid or logind does elsewhere.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use crate::power::{self, End};
use crate::sys::{self, DirectoryWatch};

/// Linux `include/uapi/linux/input-event-codes.h`.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// `struct input_event` on 64-bit machines: two times 8 bytes of time, type, code, value.
const EVENT_SIZE: usize = 24;

const INPUT: &str = "/dev/input";

/// Listens from now on, and powers off when the button is pressed.
pub(crate) fn listen() {
    let listener = std::thread::Builder::new().name("power-button".to_owned());
    let started = listener.spawn(|| {
        if let Err(error) = wait_for_press() {
            crate::complain(format_args!("can't listen to the power button: {error}"));
            return;
        }
        println!("power button: powering off");
        power::end(End::PowerOff);
    });
    if let Err(error) = started {
        crate::complain(format_args!("can't listen to the power button: {error}"));
    }
}

fn wait_for_press() -> std::io::Result<()> {
    // The kernel makes the directory with the first input device, which may never come.
    std::fs::create_dir_all(INPUT)?;
    let watch = DirectoryWatch::new(INPUT)?;
    let mut devices: Vec<(PathBuf, File)> = Vec::new();
    loop {
        watch.drain();
        for entry in std::fs::read_dir(INPUT)?.flatten() {
            let path = entry.path();
            let is_event = entry.file_name().to_string_lossy().starts_with("event");
            if is_event && devices.iter().all(|(known, _)| *known != path) {
                let device = File::open(&path)?;
                devices.push((path, device));
            }
        }
        let fds: Vec<_> = std::iter::once(watch.fd()).chain(devices.iter().map(|(_, f)| f.as_raw_fd())).collect();
        for ready in sys::wait_readable(&fds, -1)? {
            let Some((_, device)) = ready.checked_sub(1).and_then(|index| devices.get_mut(index)) else {
                continue;
            };
            let mut events = [0_u8; 16 * EVENT_SIZE];
            let length = device.read(&mut events)?;
            if events.get(..length).unwrap_or_default().chunks_exact(EVENT_SIZE).any(is_power_press) {
                return Ok(());
            }
        }
    }
}

fn is_power_press(event: &[u8]) -> bool {
    let field = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    field(16) == EV_KEY && field(18) == KEY_POWER && value == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_press_of_the_power_key_counts() {
        assert!(is_power_press(&event(EV_KEY, KEY_POWER, 1)));
        assert!(!is_power_press(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!is_power_press(&event(EV_KEY, 30, 1)));
        assert!(!is_power_press(&event(0, KEY_POWER, 1)));
    }
}
