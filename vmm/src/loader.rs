// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a machine boots: a kernel, what goes with it, and the tables that tell of the machine. It is put into guest memory when the
//! machine is built, and again at each reset.

use std::fs::File;

use arch::acpi::Platform;
use arch::{BootProtocol, EntryPoint, GuestRam};
use boot::uki::{self, Section};
use boot::{Initrd, Kernel, Part, Request, Uki};

use crate::build::{BuildError, no};
use crate::config::Config;
use crate::machine::identity::Told;
use crate::storage;

/// Files stay open: what is booted again is what was booted, even if other files have their names now.
pub(crate) struct Loader {
    /// Without its secrets.
    config: Config,
    kernel: Kernel<Part<File>>,
    initrd: Option<Initrd<Part<File>>>,
}

impl Loader {
    /// Opens the files and checks them.
    pub(crate) fn open(config: &Config) -> Result<Self, BuildError> {
        let mut config = Config { credentials: Vec::new(), ..config.clone() };
        let mut file = storage::open_readable("kernel", &config.kernel)?;
        let cant_read = |error: uki::Error| storage::problem("kernel", &config.kernel, error.to_string());
        let uki = Uki::read(&mut file).map_err(cant_read)?;
        let copy = || file.try_clone().map_err(no("a copy of a descriptor"));
        let part = |section: Section| copy().map(|file| Part::new(file, section.offset, section.len));
        let (kernel, mut initrd) = match &uki {
            Some(uki) => (part(uki.linux)?, uki.initrd.map(part).transpose()?),
            None => (Part::whole(copy()?), None),
        };
        let kernel = Kernel::open(kernel).map_err(|error| BuildError::boot(error, &config))?;
        // What is said here counts for more than what an image brings.
        if let Some(path) = &config.initrd {
            initrd = Some(Part::whole(storage::open_readable("initrd", path)?));
        }
        let initrd = initrd.map(Initrd::open).transpose().map_err(|error| BuildError::boot(error, &config))?;
        config.cmdline = config.cmdline.or(uki.and_then(|uki| uki.cmdline));
        Ok(Self { config, kernel, initrd })
    }

    /// The command line that the kernel gets.
    pub(crate) fn cmdline(&self) -> String {
        self.config.full_cmdline()
    }

    /// Checks the files once more: somebody may have written to them since.
    pub(crate) fn check_again(&mut self) -> Result<(), BuildError> {
        self.kernel.check_again().map_err(|error| BuildError::boot(error, &self.config))?;
        self.initrd.as_mut().map_or(Ok(()), Initrd::check_again).map_err(|error| BuildError::boot(error, &self.config))
    }

    /// Puts everything into guest memory, which is all zeros, and says where the boot vCPU starts.
    pub(crate) fn load(&mut self, ram: &GuestRam, platform: &Platform, told: &Told) -> Result<EntryPoint, BuildError> {
        let rsdp = arch::acpi::write(ram, platform)
            .map_err(|error| BuildError::Table { what: "ACPI tables", problem: error.to_string() })?;
        told.write(ram)?;
        let cmdline = self.cmdline();
        let request = Request {
            kernel: &mut self.kernel,
            initrd: self.initrd.as_mut(),
            cmdline: cmdline.as_bytes(),
            protocol: self.config.pvh.then_some(BootProtocol::Pvh),
            rsdp,
        };
        let entry = boot::load(ram, request).map_err(|error| BuildError::boot(error, &self.config))?;
        arch::tables::write(ram, entry.protocol)
            .map_err(|error| BuildError::Table { what: "boot tables", problem: error.to_string() })?;
        Ok(entry)
    }
}
