// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a machine boots: a kernel, what goes with it, and the tables that tell of the machine. It is put into guest memory when the
//! machine is built, and again at each reset.

use arch::acpi::Platform;
use arch::{BootProtocol, EntryPoint, GuestRam};
use boot::{Initrd, Kernel, Request};

use crate::build::BuildError;
use crate::config::Config;
use crate::machine::identity::Told;
use crate::storage;

/// Files stay open: what is booted again is what was booted, even if other files have their names now.
pub(crate) struct Loader {
    /// Without its secrets.
    config: Config,
    kernel: Kernel,
    initrd: Option<Initrd>,
}

impl Loader {
    /// Opens the files and checks them.
    pub(crate) fn open(config: &Config) -> Result<Self, BuildError> {
        let open_kernel = storage::open_readable("kernel", &config.kernel)?;
        let kernel = Kernel::open(open_kernel).map_err(|error| BuildError::boot(error, config))?;
        let open_initrd = |path| {
            let file = storage::open_readable("initrd", path)?;
            Initrd::open(file).map_err(|error| BuildError::boot(error, config))
        };
        let initrd = config.initrd.as_deref().map(open_initrd).transpose()?;
        Ok(Self { config: Config { credentials: Vec::new(), ..config.clone() }, kernel, initrd })
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
        let cmdline = self.config.full_cmdline();
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
