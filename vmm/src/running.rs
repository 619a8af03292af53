// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VM that runs: its threads, its event loop, and what becomes of it when its guest has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use devices::throttle::Throttle;
use devices::virtio::transport::Transport;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::eventfd::EventFd;

use crate::Subscriber;
use crate::config::{OnCrash, OnReboot};
use crate::exit::{Ending, Exit, RunError, StopReason};
use crate::reset::PowerOn;
use crate::vcpu::{self, Machinery, VcpuThread};

/// What is done about each end of the guest's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) reboot: OnReboot,
    pub(crate) crash: OnCrash,
    pub(crate) watchdog: OnCrash,
}

/// What is done about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Exit,
    Pause,
    Reset,
}

impl From<OnCrash> for Action {
    fn from(on: OnCrash) -> Self {
        match on {
            OnCrash::Exit => Self::Exit,
            OnCrash::Pause => Self::Pause,
            OnCrash::Reset => Self::Reset,
        }
    }
}

impl Policy {
    /// Whether the machine may have to be reset.
    pub(crate) fn resets(&self) -> bool {
        let Self { reboot, crash, watchdog } = *self;
        reboot == OnReboot::Reset || crash == OnCrash::Reset || watchdog == OnCrash::Reset
    }

    fn action(&self, exit: &Exit) -> Action {
        match exit {
            Exit::Reset if self.reboot == OnReboot::Reset => Action::Reset,
            Exit::Crashed(_) => self.crash.into(),
            Exit::Watchdog => self.watchdog.into(),
            Exit::PowerOff | Exit::Reset | Exit::Stopped(_) => Action::Exit,
        }
    }
}

/// The threads of a VM. They end with this value at the latest: guest RAM may go after it, and not before.
pub(crate) struct Running {
    /// Those that are on no thread.
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) threads: Vec<VcpuThread>,
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) stop_output: EventFd,
    pub(crate) virtio: Vec<Arc<dyn Transport>>,
    pub(crate) policy: Policy,
    /// There if the policy asks for it.
    pub(crate) power_on: Option<PowerOn>,
}

impl Running {
    /// Runs the VM to its end.
    pub(crate) fn run(&mut self, event_loop: &mut EventLoop) -> Result<Exit, RunError> {
        static RESETS: Throttle = Throttle::new();
        let ending = self.machinery.ending.clone();
        loop {
            let watched = self.start().and_then(|()| event_loop.watch(&ending));
            let joined = self.stop_vcpus();
            // A guest that has ended counts for more than what went wrong on the way out.
            let end = ending.take();
            watched?;
            let exit = end.unwrap_or(Ok(Exit::Stopped(StopReason::Asked)))?;
            joined?;
            match self.policy.action(&exit) {
                Action::Exit => return Ok(exit),
                Action::Pause => {
                    self.virtio.iter().for_each(|device| drop(device.stop()));
                    tracing::warn!("{exit}; the VM is paused, with its memory as it is, until a signal ends it");
                    ending.pause();
                    event_loop.watch(&ending)?;
                    return Ok(exit);
                }
                Action::Reset => {
                    // The host may have wanted an end meanwhile, and wants it still.
                    if let Some(reason) = ending.stopped() {
                        return Ok(Exit::Stopped(reason));
                    }
                    if let Some(times) = RESETS.hit() {
                        tracing::info!(times, "{exit}; the machine is reset");
                    }
                    self.reset()?;
                }
            }
        }
    }

    fn start(&mut self) -> Result<(), RunError> {
        self.machinery.stopping.store(false, Ordering::Release);
        (0..).zip(self.vcpus.drain(..)).try_for_each(|(index, vcpu)| {
            self.threads.push(vcpu::start(index, vcpu, self.machinery.clone())?);
            Ok(())
        })
    }

    /// Ends the threads of the vCPUs and waits for them.
    fn stop_vcpus(&mut self) -> Result<(), RunError> {
        self.machinery.stopping.store(true, Ordering::Release);
        // Fails only when the counter is full, which wakes everybody as well.
        let _ = self.stop_output.write(1);
        for thread in &self.threads {
            thread.kick();
        }
        // The first error counts, but every thread is waited for.
        let mut all = Ok(());
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(vcpu) => self.vcpus.push(vcpu),
                Err(error) => all = all.and(Err(error)),
            }
        }
        all
    }

    /// Makes everything as it was before the guest's first instruction.
    fn reset(&mut self) -> Result<(), RunError> {
        let Some(power_on) = &mut self.power_on else { return Ok(()) };
        self.machinery.ports.reset();
        self.machinery.mmio.reset();
        power_on.restore(&mut self.vcpus).map_err(|error| RunError::Reset(Box::new(error)))?;
        self.machinery.ending.forget();
        // Only a counter that is zero fails, and then there is nothing to forget.
        let _ = self.stop_output.read();
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left to do for the vCPUs unless a subscriber has panicked, and then nobody asks how this went.
        let _ = self.stop_vcpus();
        for device in &self.virtio {
            device.stop();
        }
    }
}

/// What the thread that runs the VM waits for.
pub(crate) struct EventLoop(EventManager<Subscriber>);

impl EventLoop {
    /// A loop that wakes up when the VM has ended, and serves all of these.
    pub(crate) fn new(ending: &Arc<Ending>, subscribers: Vec<Subscriber>) -> Result<Self, RunError> {
        let mut manager: EventManager<Subscriber> = EventManager::new().map_err(RunError::EventLoop)?;
        manager.add_subscriber(Box::new(EndingWatcher(ending.clone())));
        for subscriber in subscribers {
            manager.add_subscriber(subscriber);
        }
        Ok(Self(manager))
    }

    /// Serves the subscribers until the VM has ended, and at least once: a guest that resets its machine at once, time and
    /// again, keeps nobody from being heard.
    fn watch(&mut self, ending: &Ending) -> Result<(), RunError> {
        loop {
            let timeout = match ending.time_left() {
                _ if ending.has_ended() => 0,
                None => -1,
                Some(Duration::ZERO) => {
                    ending.stop(StopReason::GraceExpired);
                    0
                }
                // Rounded up: a wait of less than a millisecond is no busy loop.
                Some(left) => i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX),
            };
            match self.0.run_with_timeout(timeout) {
                Ok(_) => (),
                Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => (),
                Err(error) => return Err(RunError::EventLoop(error)),
            }
            if ending.has_ended() {
                return Ok(());
            }
        }
    }
}

/// Wakes the event loop when the VM has ended or is to end at another time.
struct EndingWatcher(Arc<Ending>);

impl MutEventSubscriber for EndingWatcher {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(self.0.changed(), EventSet::IN)) {
            self.0.end(Err(RunError::EventLoop(error)));
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // Only a counter that is zero fails, and then there is nothing to forget.
        let _ = self.0.changed().read();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::{Crash, CrashReport};

    #[test]
    fn each_end_has_its_own_policy() {
        let crash = Exit::Crashed(CrashReport { vcpu: None, rip: None, crash: Crash::Panicked });
        let policy = Policy { reboot: OnReboot::Reset, crash: OnCrash::Pause, watchdog: OnCrash::Exit };
        let ends = [Exit::Reset, crash, Exit::Watchdog, Exit::PowerOff, Exit::Stopped(StopReason::Asked)];
        let actions = [Action::Reset, Action::Pause, Action::Exit, Action::Exit, Action::Exit];
        assert_eq!(ends.each_ref().map(|end| policy.action(end)), actions);
        assert!(policy.resets());
        let exit = Policy { reboot: OnReboot::Exit, crash: OnCrash::Exit, watchdog: OnCrash::Exit };
        assert!(ends.iter().all(|end| exit.action(end) == Action::Exit) && !exit.resets());
    }
}
