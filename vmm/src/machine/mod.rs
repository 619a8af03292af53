// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The devices of a machine: which there are, where they are, and what tells the guest of them.

pub(crate) mod balloon;
mod disk;
pub(crate) mod generation;
pub(crate) mod identity;
pub(crate) mod net;
mod rate;
pub(crate) mod rng;
mod virtio;
pub(crate) mod vsock;

use std::sync::Arc;

use arch::acpi::Platform;
use arch::{GuestRam, layout};
use devices::bus::{Bus, BusError};
use devices::i8042::I8042;
use devices::power::{Power, PowerRegisters};
use devices::pvpanic::PvPanic;
use devices::rtc::Rtc;
use devices::serial::SerialPort;
use devices::virtio::VirtioDevice;
use devices::watchdog::I6300Esb;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::build::BuildError;
use crate::config::{Config, Transport};
use crate::exit::Ending;
use crate::interrupts::Interrupts;

pub(crate) use disk::Disks;
pub(crate) use virtio::Virtio;

/// What the ACPI tables say of power management.
const POWER: PowerRegisters = PowerRegisters {
    sleep_control: layout::PM_SLEEP_CONTROL,
    sleep_status: layout::PM_SLEEP_STATUS,
    reset: layout::PM_RESET,
    reset_value: layout::PM_RESET_VALUE,
    events: layout::PM_EVENTS,
    sleep_type_s5: layout::PM_SLEEP_TYPE_S5,
    power_button: layout::PM_EVENT_POWER_BUTTON,
};

/// How the guest finds a device that has no wish of its own: all of them by one way, as it finds those of one transport in their
/// order.
pub(crate) fn default_transport(config: &Config) -> Transport {
    let disks = config.all_disks().any(|(_, disk)| disk::queues(disk, config) > 1);
    let nets = config.nets.iter().any(|net| net.pairs() > 1);
    config.transport.unwrap_or(if disks || nets { Transport::Pci } else { Transport::Mmio })
}

/// The devices of a VM, while they are put together.
pub(crate) struct Machine<'a> {
    interrupts: Arc<Interrupts>,
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) virtio: Virtio<'a>,
    pvpanic: bool,
}

impl<'a> Machine<'a> {
    /// A machine without devices. `address_bits` are those of a guest-physical address.
    pub(crate) fn new(vm: &'a Arc<VmFd>, ram: &'a GuestRam, address_bits: u8) -> Self {
        let interrupts = Arc::new(Interrupts::new(vm.clone()));
        let virtio = Virtio::new(vm, ram, interrupts.clone(), address_bits);
        Self { interrupts, ports: Bus::new(), mmio: Bus::new(), virtio, pvpanic: false }
    }

    /// Power management, the reset line of the i8042, and the clock.
    pub(crate) fn add_platform(&mut self, ending: &Arc<Ending>) -> Result<Arc<Power>, BuildError> {
        let line = self.interrupts.line(layout::GED_GSI)?;
        let power = Arc::new(Power::new(POWER, ending.clone(), Box::new(line)));
        let put = |ports: &mut Bus, port: u16, size: u16, device| ports.insert(port.into(), size.into(), device);
        put(&mut self.ports, layout::PM_PORT, layout::PM_PORT_SIZE, power.clone()).map_err(bus)?;
        let i8042 = Arc::new(I8042::new(ending.clone()));
        put(&mut self.ports, layout::I8042_PORT, layout::I8042_PORT_SIZE, i8042).map_err(bus)?;
        put(&mut self.ports, layout::RTC_PORT, layout::RTC_PORT_SIZE, Arc::new(Rtc::new())).map_err(bus)?;
        Ok(power)
    }

    /// What a kernel tells its panic.
    pub(crate) fn add_pvpanic(&mut self, ending: &Arc<Ending>) -> Result<(), BuildError> {
        self.pvpanic = true;
        self.ports.insert(layout::PVPANIC_PORT.into(), 1, Arc::new(PvPanic::new(ending.clone()))).map_err(bus)
    }

    /// The watchdog, on the PCI bus: it tells `ending` of a guest that hangs.
    pub(crate) fn add_watchdog(&mut self, ending: &Arc<Ending>) -> Result<(), BuildError> {
        let watchdog = I6300Esb::new(ending.clone())
            .map_err(|error| BuildError::Table { what: "watchdog", problem: error.to_string() })?;
        self.virtio.add_function(Arc::new(watchdog), &mut self.mmio, &mut self.ports)
    }

    /// The serial port. `drained` is signalled when the guest has read all of its input.
    pub(crate) fn add_serial(
        &mut self,
        drained: EventFd,
        output: Box<dyn std::io::Write + Send>,
    ) -> Result<Arc<SerialPort>, BuildError> {
        let line = self.interrupts.line(layout::SERIAL_GSI)?;
        let serial = Arc::new(SerialPort::new(Box::new(line), drained, output));
        self.ports.insert(layout::SERIAL_PORT.into(), layout::SERIAL_PORT_SIZE.into(), serial.clone()).map_err(bus)?;
        Ok(serial)
    }

    /// Puts a device where the guest finds it by `transport`.
    pub(crate) fn add_virtio(&mut self, device: Box<dyn VirtioDevice>, transport: Transport) -> Result<(), BuildError> {
        match transport {
            Transport::Mmio => self.virtio.add_mmio(device, &mut self.mmio),
            Transport::Pci => self.virtio.add_pci(device, &mut self.mmio, &mut self.ports),
        }
    }

    /// What the ACPI tables have to say.
    pub(crate) fn platform(&self, vcpus: u32) -> Platform {
        let (virtio_mmio, pci) = self.virtio.platform();
        Platform { vcpus, serial: true, rtc: true, generation: true, pvpanic: self.pvpanic, virtio_mmio, pci }
    }
}

fn bus(error: BusError) -> BuildError {
    BuildError::Table { what: "address map", problem: error.to_string() }
}
