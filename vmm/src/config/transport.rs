// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How a guest finds its virtio devices.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// How a guest finds a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A window of registers that ACPI names.
    Mmio,
    /// A PCI function.
    Pci,
}

pub(super) const NAMES: [(&str, Transport); 2] = [("mmio", Transport::Mmio), ("pci", Transport::Pci)];
pub(super) const CHOICE: &str = "mmio or pci";

impl FromStr for Transport {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, transport)| *transport).ok_or_else(|| ConfigError::Transport(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_have_names() {
        assert_eq!(("mmio".parse(), "pci".parse()), (Ok(Transport::Mmio), Ok(Transport::Pci)));
        let error = "ccw".parse::<Transport>().unwrap_err().to_string();
        assert_eq!(error, "'ccw' is no transport: give mmio or pci");
    }
}
