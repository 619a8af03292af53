// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where virtio devices are: in windows of registers that ACPI names, or on a PCI bus.

use std::sync::Arc;

use arch::acpi::MmioDevice;
use arch::pci::PciHost;
use arch::{GuestRam, layout};
use devices::bus::Bus;
use devices::pci::{PciBus, PciFunction, Window};
use devices::virtio::VirtioDevice;
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::{ACK_USED, INTERRUPT_ACK, MmioTransport, QUEUE_NOTIFY};
use devices::virtio::transport::pci::{self, PciTransport, PciTransportError};
use kvm_ioctls::{IoEventAddress, VmFd};
use vm_memory::{Address, GuestMemoryBackend};

use super::bus;
use crate::build::{BuildError, no, refused};
use crate::interrupts::{Doorbells, Interrupts};

/// The virtio devices of a VM, while they are put together.
pub(crate) struct Virtio<'a> {
    vm: &'a Arc<VmFd>,
    ram: &'a GuestRam,
    interrupts: Arc<Interrupts>,
    address_bits: u8,
    /// All of them.
    pub(crate) devices: Vec<Arc<dyn Transport>>,
    windows: Vec<MmioDevice>,
    /// There once a device needs it: a guest has nothing to search where there is no bus.
    pci: Option<(Arc<PciBus>, PciHost)>,
}

impl<'a> Virtio<'a> {
    pub(super) fn new(vm: &'a Arc<VmFd>, ram: &'a GuestRam, interrupts: Arc<Interrupts>, address_bits: u8) -> Self {
        Self { vm, ram, interrupts, address_bits, devices: Vec::new(), windows: Vec::new(), pci: None }
    }

    /// What the ACPI tables have to say of them.
    pub(super) fn platform(&self) -> (Vec<MmioDevice>, Option<PciHost>) {
        (self.windows.clone(), self.pci.as_ref().map(|(_, host)| *host))
    }

    pub(super) fn add_mmio(&mut self, device: Box<dyn VirtioDevice>, mmio: &mut Bus) -> Result<(), BuildError> {
        let index = self.windows.len() as u64;
        let base = layout::VIRTIO_MMIO_START + index * layout::VIRTIO_MMIO_SIZE;
        if base >= layout::VIRTIO_MMIO_END {
            let max = (layout::VIRTIO_MMIO_END - layout::VIRTIO_MMIO_START) / layout::VIRTIO_MMIO_SIZE;
            return Err(BuildError::Devices { transport: "virtio-mmio", max: max as usize });
        }
        let lines = u64::from(layout::IOAPIC_PINS - layout::VIRTIO_GSI_START);
        let gsi = layout::VIRTIO_GSI_START + (index % lines) as u32;
        let line = self.interrupts.line(gsi)?;
        let transport = MmioTransport::new(device, self.ram.clone(), Box::new(line)).map_err(no("a doorbell"))?;
        for (queue, doorbell) in (0u32..).zip(transport.doorbells().map_err(no("a doorbell"))?) {
            self.vm
                .register_ioevent(&doorbell, &IoEventAddress::Mmio(base + QUEUE_NOTIFY), queue)
                .map_err(refused("listen to a doorbell"))?;
        }
        let acknowledgement = transport.acknowledgement().map_err(no("an interrupt line"))?;
        self.vm
            .register_ioevent(&acknowledgement, &IoEventAddress::Mmio(base + INTERRUPT_ACK), ACK_USED)
            .map_err(refused("listen to an acknowledgement"))?;
        let transport = Arc::new(transport);
        mmio.insert(base, layout::VIRTIO_MMIO_SIZE, transport.clone()).map_err(bus)?;
        self.devices.push(transport);
        self.windows.push(MmioDevice { base, size: layout::VIRTIO_MMIO_SIZE, gsi });
        Ok(())
    }

    pub(super) fn add_pci(
        &mut self,
        device: Box<dyn VirtioDevice>,
        mmio: &mut Bus,
        ports: &mut Bus,
    ) -> Result<(), BuildError> {
        let vectors = self.interrupts.vectors(pci::vectors(device.as_ref()).map_err(cant)?)?;
        let doorbells = Arc::new(Doorbells(self.vm.clone()));
        let transport = PciTransport::new(device, self.ram.clone(), vectors, doorbells).map_err(cant)?;
        self.add_function(transport.clone(), mmio, ports)?;
        self.devices.push(transport);
        Ok(())
    }

    /// Puts a function on the PCI bus, which is made for the first one.
    pub(super) fn add_function(
        &mut self,
        function: Arc<dyn PciFunction>,
        mmio: &mut Bus,
        ports: &mut Bus,
    ) -> Result<(), BuildError> {
        let pci = match &self.pci {
            Some((pci, _)) => pci.clone(),
            None => self.create_pci(mmio, ports)?,
        };
        pci.add(function).map_err(|error| BuildError::Table { what: "PCI bus", problem: error.to_string() })?;
        Ok(())
    }

    fn create_pci(&mut self, mmio: &mut Bus, ports: &mut Bus) -> Result<Arc<PciBus>, BuildError> {
        let ram_end = self.ram.last_addr().raw_value().saturating_add(1);
        let host = PciHost { window_64: arch::pci::high_window(ram_end, self.address_bits) };
        let size = layout::PCI_WINDOW_END - layout::PCI_WINDOW_START;
        let mut windows = vec![Window { base: layout::PCI_WINDOW_START, size }];
        windows.extend(host.window_64.map(|window| Window { base: window.base, size: window.size }));
        let pci = PciBus::new(windows.clone());
        mmio.insert(layout::PCI_ECAM_START, layout::PCI_ECAM_SIZE, pci.ecam()).map_err(bus)?;
        ports.insert(layout::PCI_CONFIG_PORT.into(), layout::PCI_CONFIG_PORT_SIZE.into(), pci.ports()).map_err(bus)?;
        for (index, window) in windows.iter().enumerate() {
            if let Some(device) = pci.window(index) {
                mmio.insert(window.base, window.size, device).map_err(bus)?;
            }
        }
        self.pci = Some((pci.clone(), host));
        Ok(pci)
    }
}

fn cant(error: PciTransportError) -> BuildError {
    BuildError::Table { what: "PCI device", problem: error.to_string() }
}
