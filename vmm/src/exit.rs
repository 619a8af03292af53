// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a VM ends, and how its host ends it.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::machine::generation::Generations;
use devices::power::{Power, PowerRequest, PowerSink};
pub use devices::virtio::balloon::{BalloonControl, BalloonError, Statistics};
pub use devices::virtio::block::BlockError;
use devices::virtio::block::{BlockControl, SECTOR_SIZE};
pub use devices::virtio::net::NetControl;
use devices::watchdog::WatchdogSink;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use crate::console::ConsoleControl;

/// Why a VM has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest crashed.
    Crashed(CrashReport),
    /// The guest's watchdog expired: it did nothing for longer than it had said.
    Watchdog,
    /// The host ended it.
    Stopped(StopReason),
}

/// Why the host ended a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// [`Control::stop`] was called.
    Asked,
    /// The guest did not power off within the grace of [`Control::shutdown`].
    GraceExpired,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest rebooted"),
            Self::Crashed(report) => write!(f, "the guest crashed: {report}"),
            Self::Watchdog => f.write_str("the guest hangs: its watchdog expired"),
            Self::Stopped(StopReason::Asked) => f.write_str("the VM was stopped"),
            Self::Stopped(StopReason::GraceExpired) => {
                f.write_str("the VM was stopped: its guest did not power off within the grace")
            }
        }
    }
}

/// What a vCPU was at when the guest crashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashReport {
    /// The vCPU, unless the crash was none of a vCPU's.
    pub vcpu: Option<u32>,
    /// Where it was, if KVM still knew.
    pub rip: Option<u64>,
    /// What happened.
    pub crash: Crash,
}

/// A crash.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crash {
    /// A fault that the guest's handlers could not take.
    TripleFault,
    /// KVM could not go on with the guest: suberror 1 is an instruction that it can't emulate.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// The bytes at RIP, where KVM gave them.
        instruction: Vec<u8>,
    },
    /// The guest told KVM so (`KVM_SYSTEM_EVENT_CRASH`).
    Reported,
    /// The guest's kernel told its panic to pvpanic.
    Panicked,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.crash {
            Crash::TripleFault => f.write_str("triple fault")?,
            Crash::InternalError { suberror: 1, instruction } => {
                f.write_str("KVM could not emulate an instruction")?;
                if !instruction.is_empty() {
                    f.write_str(" (bytes")?;
                    for byte in instruction {
                        write!(f, " {byte:02x}")?;
                    }
                    f.write_str(")")?;
                }
            }
            Crash::InternalError { suberror, .. } => write!(f, "KVM gave up with internal error {suberror}")?,
            Crash::Reported => f.write_str("it said so itself")?,
            Crash::Panicked => f.write_str("its kernel panicked")?,
        }
        if let Some(vcpu) = self.vcpu {
            write!(f, " on vCPU {vcpu}")?;
        }
        match self.rip {
            Some(rip) => write!(f, " at RIP {rip:#x}"),
            None => Ok(()),
        }
    }
}

/// What can go wrong on the host while a VM runs.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// `KVM_RUN` failed.
    #[error("KVM could not run vCPU {vcpu}")]
    Run {
        /// The vCPU.
        vcpu: u32,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The processor refused the guest's state.
    #[error("vCPU {vcpu} could not be entered: the hardware's reason is {reason:#x}")]
    FailEntry {
        /// The vCPU.
        vcpu: u32,
        /// `hardware_entry_failure_reason`.
        reason: u64,
    },
    /// KVM came back for something that this VMM doesn't know.
    #[error("vCPU {vcpu} left the guest for a reason that nobody handles: {exit}")]
    UnhandledExit {
        /// The vCPU.
        vcpu: u32,
        /// The exit's name and data.
        exit: String,
    },
    /// A thread of ours panicked.
    #[error("the thread of vCPU {vcpu} panicked")]
    Panicked {
        /// The vCPU.
        vcpu: u32,
    },
    /// A thread can't be started.
    #[error("the thread of vCPU {vcpu} can't be started")]
    Thread {
        /// The vCPU.
        vcpu: u32,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The machine can't be reset.
    #[error("the machine can't be reset")]
    Reset(#[source] Box<crate::build::BuildError>),
    /// The event loop can't go on.
    #[error("the event loop failed")]
    EventLoop(#[source] event_manager::Error),
}

/// What the event loop waits for.
#[derive(Debug, Default)]
struct Pending {
    /// How the guest has ended, or what went wrong; the first reason counts.
    end: Option<Result<Exit, RunError>>,
    /// The host wants an end: for good, even if the guest has ended meanwhile and the machine was to be reset.
    stop: Option<StopReason>,
    /// No guest is there that could power off.
    paused: bool,
    /// When the VM is stopped at the latest.
    deadline: Option<Instant>,
}

/// The end of a VM: filled in by whoever sees it first, waited for by the event loop.
#[derive(Debug)]
pub(crate) struct Ending {
    pending: Mutex<Pending>,
    changed: EventFd,
}

impl Ending {
    pub(crate) fn new() -> io::Result<Self> {
        let changed = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        Ok(Self { pending: Mutex::default(), changed })
    }

    /// Readable when something has changed.
    pub(crate) fn changed(&self) -> &EventFd {
        &self.changed
    }

    /// Ends the VM, unless something else has ended it already.
    pub(crate) fn end(&self, how: Result<Exit, RunError>) {
        let mut pending = self.lock();
        // A machine that stands still is ended by its host alone, whatever of it still runs.
        if pending.stop.is_none() && !pending.paused {
            pending.end.get_or_insert(how);
        }
        drop(pending);
        self.wake();
    }

    /// Ends the VM for good.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.lock().stop.get_or_insert(reason);
        self.wake();
    }

    /// Takes the reason, once there is one.
    pub(crate) fn take(&self) -> Option<Result<Exit, RunError>> {
        let mut pending = self.lock();
        let stopped = pending.stop.map(|reason| Ok(Exit::Stopped(reason)));
        pending.end.take().or(stopped)
    }

    pub(crate) fn has_ended(&self) -> bool {
        let pending = self.lock();
        pending.end.is_some() || pending.stop.is_some()
    }

    /// Why the host wants an end, if it does: also when a grace is over that nobody has waited for.
    pub(crate) fn stopped(&self) -> Option<StopReason> {
        let over = self.time_left() == Some(Duration::ZERO);
        self.lock().stop.or(over.then_some(StopReason::GraceExpired))
    }

    /// The guest stands still: from now on there is no grace, as nobody would make use of it.
    pub(crate) fn pause(&self) {
        let mut pending = self.lock();
        (pending.paused, pending.end) = (true, None);
        if pending.deadline.is_some() {
            pending.stop.get_or_insert(StopReason::Asked);
        }
    }

    /// The machine is as new: what one of its devices has said of the guest of before is of no account.
    pub(crate) fn forget(&self) {
        self.lock().end = None;
    }

    /// How long until the VM has to be stopped, if that is so.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        self.lock().deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn set_deadline(&self, deadline: Instant) {
        let mut pending = self.lock();
        let earliest = pending.deadline.map_or(deadline, |before| before.min(deadline));
        pending.deadline = Some(earliest);
        if pending.paused {
            pending.stop.get_or_insert(StopReason::Asked);
        }
        drop(pending);
        self.wake();
    }

    fn wake(&self) {
        // A full counter wakes the loop just as well.
        let _ = self.changed.write(1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PowerSink for Ending {
    fn request(&self, request: PowerRequest) {
        self.end(Ok(match request {
            PowerRequest::Off => Exit::PowerOff,
            PowerRequest::Reset => Exit::Reset,
            PowerRequest::Panicked => Exit::Crashed(CrashReport { vcpu: None, rip: None, crash: Crash::Panicked }),
            PowerRequest::Watchdog => Exit::Watchdog,
        }));
    }
}

impl WatchdogSink for Ending {
    fn expired(&self) {
        self.request(PowerRequest::Watchdog);
    }
}

/// Ends a running VM, from any thread. Calls on a VM that has ended do nothing.
#[derive(Clone, Debug)]
pub struct Control {
    pub(crate) ending: Arc<Ending>,
    pub(crate) power: Arc<Power>,
    pub(crate) disks: Vec<DiskControl>,
    pub(crate) nets: Vec<NetControl>,
    pub(crate) generations: Arc<Generations>,
    pub(crate) balloon: Option<BalloonControl>,
    pub(crate) consoles: Vec<ConsoleControl>,
}

impl Control {
    /// The disks, the root file system first, in the order of the configuration.
    pub fn disks(&self) -> &[DiskControl] {
        &self.disks
    }

    /// The network cards, in the order of the configuration.
    pub fn nets(&self) -> &[NetControl] {
        &self.nets
    }

    /// The balloon, if there is one.
    pub fn balloon(&self) -> Option<&BalloonControl> {
        self.balloon.as_ref()
    }

    /// The ports of the virtio console, in the order of the configuration.
    pub fn consoles(&self) -> &[ConsoleControl] {
        &self.consoles
    }

    /// Presses the ACPI power button: a guest that listens to it shuts down in its own time.
    pub fn power_button(&self) {
        self.power.press_power_button();
    }

    /// Presses the power button, and stops the VM when the guest has not powered off within `grace`.
    pub fn shutdown(&self, grace: Duration) {
        self.power_button();
        if let Some(deadline) = Instant::now().checked_add(grace) {
            self.ending.set_deadline(deadline);
        }
    }

    /// Tells the guest that it is not the one that it was: that it, or what it remembers, may be there more than once. To be
    /// called when a machine goes on from a saved state. The guest finds a new generation ID and another mark of its vmclock, and is
    /// notified of both: Linux gives its random numbers a new seed at once.
    ///
    /// # Errors
    ///
    /// When the host gives no random numbers.
    pub fn new_generation(&self) -> io::Result<()> {
        self.generations.renew()
    }

    /// Stops the VM at once.
    pub fn stop(&self) {
        self.ending.stop(StopReason::Asked);
    }
}

/// What a host can do with a disk of a running VM, from any thread.
#[derive(Clone, Debug)]
pub struct DiskControl(pub(crate) BlockControl);

impl DiskControl {
    /// Makes the image larger and tells the guest: a raw file or a qcow2 image has `size` bytes then, and what is new reads
    /// as zeros. An image that has that size already stays as it is. Gives the size.
    ///
    /// # Errors
    ///
    /// When `size` is less than what there is, or none that a disk can have: 0, or no multiple of its block size; when the
    /// image is read-only; when it is a block device, which has ways of its own to grow: [`Self::refresh`] is for them; when
    /// the host can't make it larger. Then the guest keeps what it was told before.
    pub fn resize(&self, size: u64) -> Result<u64, BlockError> {
        Ok(self.0.resize(size)?.saturating_mul(SECTOR_SIZE))
    }

    /// Looks which size the block device or raw image has now, when somebody else has changed that, and tells the guest;
    /// gives its bytes. Nobody else changes the size of a qcow2 image that is in use.
    ///
    /// What a guest writes where a raw image was before it was made smaller makes it grow again.
    ///
    /// # Errors
    ///
    /// When the size can't be found out, or is none that a disk can have. Then the guest keeps what it was told before.
    pub fn refresh(&self) -> Result<u64, BlockError> {
        Ok(self.0.refresh()?.saturating_mul(SECTOR_SIZE))
    }

    /// How many requests wait for space on the host (`on-error=stop`).
    pub fn waiting(&self) -> usize {
        self.0.held()
    }

    /// There is space again: goes on with the requests that wait for it.
    pub fn resume(&self) {
        self.0.resume();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let ending = Ending::new().unwrap();
        assert!(!ending.has_ended());
        ending.request(PowerRequest::Reset);
        ending.stop(StopReason::Asked);
        assert!(ending.has_ended());
        assert!(ending.changed().read().is_ok());
        assert!(matches!(ending.take(), Some(Ok(Exit::Reset))));
        let ending = Ending::new().unwrap();
        ending.stop(StopReason::Asked);
        ending.request(PowerRequest::Off);
        assert!(matches!(ending.take(), Some(Ok(Exit::Stopped(StopReason::Asked)))));
    }

    #[test]
    fn an_end_that_the_host_wants_outlives_a_reset() {
        let ending = Ending::new().unwrap();
        ending.request(PowerRequest::Reset);
        assert_eq!(ending.stopped(), None);
        ending.stop(StopReason::Asked);
        assert!(matches!(ending.take(), Some(Ok(Exit::Reset))));
        assert_eq!(ending.stopped(), Some(StopReason::Asked));
        let ending = Ending::new().unwrap();
        ending.set_deadline(Instant::now());
        assert_eq!(ending.stopped(), Some(StopReason::GraceExpired));
    }

    #[test]
    fn a_guest_that_stands_still_has_no_grace() {
        let later = Instant::now() + Duration::from_secs(3600);
        let before = Ending::new().unwrap();
        before.set_deadline(later);
        before.pause();
        let after = Ending::new().unwrap();
        after.pause();
        assert!(!after.has_ended());
        after.set_deadline(later);
        assert_eq!([before, after].map(|ending| ending.stopped()), [Some(StopReason::Asked); 2]);
    }

    #[test]
    fn the_earlier_deadline_counts() {
        let ending = Ending::new().unwrap();
        assert_eq!(ending.time_left(), None);
        let now = Instant::now();
        ending.set_deadline(now);
        ending.set_deadline(now + Duration::from_secs(3600));
        assert_eq!(ending.time_left(), Some(Duration::ZERO));
    }

    #[test]
    fn what_devices_ask_for_is_an_end_each() {
        for (request, status) in [
            (PowerRequest::Off, "the guest powered off"),
            (PowerRequest::Reset, "the guest rebooted"),
            (PowerRequest::Panicked, "the guest crashed: its kernel panicked"),
            (PowerRequest::Watchdog, "the guest hangs: its watchdog expired"),
        ] {
            let ending = Ending::new().unwrap();
            ending.request(request);
            assert_eq!(ending.take().unwrap().unwrap().to_string(), status);
        }
    }

    #[test]
    fn a_crash_is_told_in_one_line() {
        let instruction = vec![0x0f, 0xae];
        let crash = Crash::InternalError { suberror: 1, instruction };
        let report = CrashReport { vcpu: Some(1), rip: Some(0x1000), crash };
        let line = Exit::Crashed(report).to_string();
        assert_eq!(
            line,
            "the guest crashed: KVM could not emulate an instruction (bytes 0f ae) on vCPU 1 at RIP 0x1000"
        );
    }
}
