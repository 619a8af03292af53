// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ways in which the system ends.

use std::sync::Mutex;

use crate::sys;

/// What is asked of the machine once everything is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine switches itself off.
    PowerOff,
    /// The machine resets itself.
    Reboot,
    /// The processors stop; the machine stays on.
    Halt,
}

/// Only one thread gets to end the system; it never gives this back.
static ENDING: Mutex<()> = Mutex::new(());

/// Ends every process, writes everything back and ends the system.
pub(crate) fn end(how: End) -> ! {
    end_after(how, || {})
}

/// The same, with a last word once everything is written back.
pub(crate) fn end_after(how: End, last_word: impl FnOnce()) -> ! {
    let _only_one = ENDING.lock();
    settle();
    last_word();
    let command = match how {
        End::PowerOff => libc::LINUX_REBOOT_CMD_POWER_OFF,
        End::Reboot => libc::LINUX_REBOOT_CMD_RESTART,
        End::Halt => libc::LINUX_REBOOT_CMD_HALT,
    };
    if let Err(error) = sys::reboot(command) {
        crate::complain(format_args!("the kernel refuses to end the system: {error}"));
    }
    sys::reap_forever()
}

/// Ends every other process and leaves all file systems clean.
fn settle() {
    sys::signal_everyone(libc::SIGKILL);
    sys::sync();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let mut fields = line.split(' ');
        let (Some(device), Some(place)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !device.starts_with("/dev/") {
            continue;
        }
        // The root is always busy, and so may be others: read-only is as clean as unmounted.
        if place == "/" || sys::unmount(place).is_err() {
            let flags = libc::MS_REMOUNT | libc::MS_RDONLY;
            if let Err(error) = sys::mount(device, place, "", flags, "") {
                crate::complain(format_args!("can't make {place} read-only: {error}"));
            }
        }
    }
    sys::sync();
}
