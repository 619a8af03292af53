// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! When the kernel runs a thread that has been woken.

use std::io;

/// Whether this thread, when it is woken, lets whoever runs go on until they wait or their time is over (`SCHED_BATCH`, sched(7)).
/// Where a processor is idle, it makes no difference. Anybody may.
pub(crate) fn set_patient(patient: bool) -> io::Result<()> {
    let policy = if patient { libc::SCHED_BATCH } else { libc::SCHED_OTHER };
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; the structure is read, and lives on this stack.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_becomes_patient_and_impatient_again() {
        std::thread::spawn(|| {
            // SAFETY: takes a number, and gives one.
            let policy = || unsafe { libc::sched_getscheduler(0) };
            for (patient, expected) in
                [(true, libc::SCHED_BATCH), (true, libc::SCHED_BATCH), (false, libc::SCHED_OTHER)]
            {
                set_patient(patient).unwrap();
                assert_eq!(policy(), expected);
            }
        })
        .join()
        .unwrap();
    }
}
