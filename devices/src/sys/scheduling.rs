// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! When the kernel runs a thread that has been woken.

use std::io;

/// Has this thread, when it is woken, let whoever runs go on until they wait or their time is over (`SCHED_BATCH`, sched(7)).
/// Where a processor is idle, it makes no difference. Anybody may. `false`: somebody has chosen for this thread, and it stays so.
pub(crate) fn become_patient() -> io::Result<bool> {
    // SAFETY: 0 is the calling thread; gives a number.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy != libc::SCHED_OTHER {
        return if policy < 0 { Err(io::Error::last_os_error()) } else { Ok(false) };
    }
    set(libc::SCHED_BATCH).map(|()| true)
}

/// Takes back that [`become_patient`] has done something.
pub(crate) fn become_impatient() -> io::Result<()> {
    set(libc::SCHED_OTHER)
}

fn set(policy: libc::c_int) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; the structure is read, and lives on this stack.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: 0 is the calling thread; gives a number.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_becomes_patient_and_impatient_again_unless_somebody_has_chosen_for_it() {
        let test = || {
            assert!(become_patient().unwrap());
            assert_eq!(policy(), libc::SCHED_BATCH);
            assert!(!become_patient().unwrap(), "it is by now");
            become_impatient().unwrap();
            assert_eq!(policy(), libc::SCHED_OTHER);
            set(libc::SCHED_IDLE).unwrap();
            assert!(!become_patient().unwrap());
            assert_eq!(policy(), libc::SCHED_IDLE);
        };
        std::thread::spawn(test).join().unwrap();
    }
}
