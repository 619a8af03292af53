// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How devices reach the guest's interrupt controllers, and the guest's doorbells the devices: `irqfd`, KVM's table of
//! interrupt routes, and `ioeventfd`. No thread of ours is involved in either.
//!
//! The guest controls the message of each MSI-X vector. All that it can do with it is to interrupt its own vCPUs, and a
//! message that KVM doesn't take leaves the vector as it was.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arch::layout;
use devices::interrupt::{InterruptLine, MsiMessage, MsiVectors};
use devices::virtio::transport::DoorbellBinder;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::build::{BuildError, no, refused};

/// Routes that KVM has room for (`KVM_MAX_IRQ_ROUTES`); as many numbers of interrupts there are.
const MAX_ROUTES: u32 = 4096;
/// Pins of each of the two PICs.
const PIC_PINS: u32 = 8;
/// Vectors that there is room for beside the lines, of which the first 16 have two routes.
const MAX_VECTORS: u32 = MAX_ROUTES - layout::IOAPIC_PINS - 2 * PIC_PINS;

/// The interrupts of a VM.
#[derive(Debug)]
pub(crate) struct Interrupts {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

/// What the table holds besides the lines of the interrupt controllers.
#[derive(Debug, Default)]
struct Routes {
    /// How many numbers are taken, lines not counted.
    reserved: u32,
    messages: BTreeMap<u32, MsiMessage>,
}

impl Interrupts {
    pub(crate) fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, routes: Mutex::default() }
    }

    /// An eventfd that raises a line of the interrupt controllers.
    pub(crate) fn line(&self, gsi: u32) -> Result<EventFd, BuildError> {
        let line = eventfd().map_err(no("an interrupt line"))?;
        self.vm.register_irqfd(&line, gsi).map_err(refused("connect an interrupt line"))?;
        Ok(line)
    }

    /// Vectors for one device. None of them is in KVM's table before the guest has given it a message.
    pub(crate) fn vectors(self: &Arc<Self>, count: u16) -> Result<Arc<Vectors>, BuildError> {
        let first = {
            let mut routes = self.lock();
            if routes.reserved + u32::from(count) > MAX_VECTORS {
                return Err(BuildError::Vectors { max: MAX_VECTORS });
            }
            let first = layout::IOAPIC_PINS + routes.reserved;
            routes.reserved += u32::from(count);
            first
        };
        let vector = |gsi| Ok(Vector { gsi, event: eventfd()?, connected: AtomicBool::new(false) });
        let vectors = (first..).take(count.into()).map(vector).collect::<io::Result<_>>();
        Ok(Arc::new(Vectors { interrupts: self.clone(), vectors: vectors.map_err(no("an interrupt vector"))? }))
    }

    /// Gives numbers of interrupts their messages. KVM takes the table whole.
    fn route(&self, messages: impl Iterator<Item = (u32, MsiMessage)>) -> io::Result<()> {
        let mut routes = self.lock();
        let mut changed = routes.messages.clone();
        changed.extend(messages);
        if changed != routes.messages {
            self.vm.set_gsi_routing(&table(&changed)?)?;
            routes.messages = changed;
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn eventfd() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
}

/// The whole table: the lines as KVM itself lays them out, then the messages.
fn table(messages: &BTreeMap<u32, MsiMessage>) -> io::Result<KvmIrqRouting> {
    let pin = |gsi, irqchip, pin| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip.irqchip = irqchip;
        entry.u.irqchip.pin = pin;
        entry
    };
    let message = |(&gsi, message): (&u32, &MsiMessage)| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
        entry.u.msi.address_lo = (message.address & 0xffff_ffff) as u32;
        entry.u.msi.address_hi = (message.address >> 32) as u32;
        entry.u.msi.data = message.data;
        entry
    };
    let pic = (0..PIC_PINS)
        .flat_map(|at| [pin(at, KVM_IRQCHIP_PIC_MASTER, at), pin(at + PIC_PINS, KVM_IRQCHIP_PIC_SLAVE, at)]);
    let ioapic = (0..layout::IOAPIC_PINS).map(|gsi| pin(gsi, KVM_IRQCHIP_IOAPIC, gsi));
    let entries: Vec<_> = pic.chain(ioapic).chain(messages.iter().map(message)).collect();
    KvmIrqRouting::from_entries(&entries).map_err(|error| io::Error::other(format!("{error:?}")))
}

/// The message-signalled interrupts of one device.
#[derive(Debug)]
pub(crate) struct Vectors {
    interrupts: Arc<Interrupts>,
    vectors: Vec<Vector>,
}

#[derive(Debug)]
struct Vector {
    gsi: u32,
    event: EventFd,
    /// KVM listens to the event.
    connected: AtomicBool,
}

impl MsiVectors for Vectors {
    fn route(&self, messages: &[(u16, MsiMessage)]) -> io::Result<()> {
        let vector = |index: &u16| self.vectors.get(usize::from(*index)).ok_or(io::ErrorKind::NotFound);
        let vectors = messages.iter().map(|(index, _)| vector(index)).collect::<Result<Vec<_>, _>>()?;
        let gsis = vectors.iter().map(|vector| vector.gsi);
        self.interrupts.route(gsis.zip(messages.iter().map(|(_, message)| *message)))?;
        for vector in vectors {
            if !vector.connected.swap(true, Ordering::AcqRel) {
                let connected = self.interrupts.vm.register_irqfd(&vector.event, vector.gsi);
                vector.connected.store(connected.is_ok(), Ordering::Release);
                connected?;
            }
        }
        Ok(())
    }

    fn connect(&self, index: u16, event: &EventFd) -> io::Result<()> {
        let vector = self.vectors.get(usize::from(index)).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.interrupts.vm.register_irqfd(event, vector.gsi)?)
    }

    fn disconnect(&self, index: u16, event: &EventFd) {
        let Some(vector) = self.vectors.get(usize::from(index)) else { return };
        // KVM knows nothing of one only if it never did.
        if let Err(error) = self.interrupts.vm.unregister_irqfd(event, vector.gsi) {
            tracing::debug!("KVM still listens to an event of vector {index}: {error}");
        }
    }

    fn trigger(&self, index: u16) {
        if let Some(vector) = self.vectors.get(usize::from(index)).filter(|v| v.connected.load(Ordering::Acquire)) {
            vector.event.trigger();
        }
    }
}

/// Doorbells that ring without an exit to user space.
#[derive(Debug)]
pub(crate) struct Doorbells(pub(crate) Arc<VmFd>);

impl DoorbellBinder for Doorbells {
    fn bind(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        Ok(self.0.register_ioevent(doorbell, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }

    fn unbind(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        Ok(self.0.unregister_ioevent(doorbell, &IoEventAddress::Mmio(address), NoDatamatch)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_keeps_every_line_beside_the_messages() {
        let messages = BTreeMap::from([(24, MsiMessage { address: 0x1_fee0_0000, data: 0x4041 })]);
        let table = table(&messages).unwrap();
        let entries = table.as_slice();
        assert_eq!(entries.len(), 16 + 24 + 1);
        for gsi in 0..16 {
            assert_eq!(entries.iter().filter(|entry| entry.gsi == gsi).count(), 2, "{gsi}");
        }
        let message = entries.iter().find(|entry| entry.gsi == 24).unwrap();
        assert_eq!(message.type_, KVM_IRQ_ROUTING_MSI);
    }
}
