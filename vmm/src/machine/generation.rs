// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machine's generation: an ID and a count that the guest is told of, and told again when they change.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arch::generation::Generation;
use arch::{GuestRam, layout};
use devices::power::Power;

use crate::build::{BuildError, no};

/// What the guest is told of.
#[derive(Debug)]
pub(crate) struct Generations {
    power: Arc<Power>,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    generation: Generation,
    /// Until the VM has ended.
    ram: Option<GuestRam>,
}

impl Generations {
    /// The first one, with an ID that no other machine has.
    pub(crate) fn new(ram: &GuestRam, power: &Arc<Power>) -> Result<Arc<Self>, BuildError> {
        let generation = Generation { id: random().map_err(no("random numbers"))?, count: 0 };
        let now = Mutex::new(Now { generation, ram: Some(ram.clone()) });
        Ok(Arc::new(Self { power: power.clone(), now }))
    }

    /// Writes it to where the guest looks for it.
    pub(crate) fn write(&self) -> Result<(), BuildError> {
        let now = self.lock();
        let written = now.ram.as_ref().map_or(Ok(()), |ram| arch::generation::write(ram, &now.generation));
        written.map_err(|error| BuildError::Table { what: "generation", problem: error.to_string() })
    }

    /// Makes a new one, and tells the guest that there is one.
    pub(crate) fn renew(&self) -> io::Result<()> {
        let id = random()?;
        let mut now = self.lock();
        let Now { generation, ram } = &mut *now;
        let Some(ram) = ram else { return Ok(()) };
        *generation = Generation { id, count: generation.count.wrapping_add(1) };
        arch::generation::write(ram, generation).map_err(io::Error::other)?;
        drop(now);
        self.power.raise(layout::PM_EVENT_GENERATION | layout::PM_EVENT_CLOCK);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose end is that of the guest's memory, though a `Control` may outlive it.
#[derive(Debug)]
pub(crate) struct Owner(pub(crate) Arc<Generations>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().ram = None;
    }
}

#[expect(unsafe_code, reason = "random numbers come by a system call that fills memory")]
fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0u8; 16];
    // SAFETY: the pointer and the length are those of an array that lives across the call. So few bytes come whole.
    let read = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if read == 16 { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use devices::bus::BusDevice;
    use devices::power::{PowerRequest, PowerSink};
    use vm_memory::{Bytes, GuestAddress};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::machine::POWER;

    #[derive(Debug)]
    struct Nobody;

    impl PowerSink for Nobody {
        fn request(&self, _: PowerRequest) {}
    }

    #[test]
    fn a_new_generation_has_a_new_id_and_tells_the_guest_by_two_events() {
        let ram = GuestRam::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let power = Arc::new(Power::new(POWER, Arc::new(Nobody), Box::new(line.try_clone().unwrap())));
        let generations = Generations::new(&ram, &power).unwrap();
        let id = || ram.read_obj::<u128>(GuestAddress(layout::GENERATION_ID)).unwrap();
        let marker = || ram.read_obj::<u64>(GuestAddress(layout::VMCLOCK + 16)).unwrap();
        generations.write().unwrap();
        let first = id();
        assert_ne!(first, 0);
        assert!(line.read().is_err());
        // What the guest writes there changes nothing for the next one.
        ram.write_obj(u64::MAX, GuestAddress(layout::VMCLOCK + 16)).unwrap();
        generations.renew().unwrap();
        assert_ne!(id(), first);
        assert_eq!((marker(), line.read().unwrap()), (1, 1));
        let mut events = [0];
        power.read(u64::from(layout::PM_EVENTS), &mut events);
        assert_eq!(events, [0b110]);
        // A reset tells the same one again.
        let second = id();
        ram.write_obj(0u128, GuestAddress(layout::GENERATION_ID)).unwrap();
        generations.write().unwrap();
        assert_eq!((id(), marker()), (second, 1));
        // Behind the end there is nobody to be told.
        drop(Owner(generations.clone()));
        generations.renew().unwrap();
        assert_eq!((id(), line.read().is_err()), (second, true));
    }
}
